"""Claims about `moe.lm_eval`: the harness's own evaluation runs on a mixture, and gets what we measure ourselves."""

from pathlib import Path
from typing import Any

import pytest
from corpora import taught_below
from datasets import Dataset
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from experts.errors import Fault
from moe.inference.scoring import likelihoods
from moe.lm_eval import FinMoE
from moe.qa.evaluate import load_run_questions
from moe.qa.scoring import EvalQuestion
from moe.runs.workspace import Workspace


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A team that was taught its questions."""
    return taught_below(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def model(taught: Workspace) -> FinMoE:
    """It, as the harness sees it."""
    return FinMoE(taught.out / "moe-instruct")


def asked(kind: str, *args: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=args, idx=0)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_harness_takes_the_choice_that_we_find_likeliest(taught: Workspace, model: FinMoE) -> None:
    questions = load_run_questions(taught, ["news-tone"])
    rows = Dataset.from_list(
        [{"prompt": one.prompt, "choices": one.choices, "gold": one.choices.index(one.answer)} for one in questions]
    )
    config = {
        "task": "tone",
        "custom_dataset": lambda **_: {"test": rows},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "target_delimiter": " ",
        "metric_list": [{"metric": "acc"}],
    }
    found = simple_evaluate(model=model, tasks=[ConfigurableTask(config=config)], bootstrap_iters=0)
    assert found is not None
    right = [_likeliest(model, one) == one.answer for one in questions]
    assert found["results"]["tone"]["acc,none"] == pytest.approx(sum(right) / len(right))


def _likeliest(model: FinMoE, one: EvalQuestion) -> str:
    """The choice that we find likeliest ourselves behind the harness's tokens of the prompt."""
    pairs = [(model.tok_encode(one.prompt), model.generator.prompt_encoder.said(choice)) for choice in one.choices]
    totals = [found.total for found in likelihoods(model.model, pairs)]
    return one.choices[totals.index(max(totals))]


def test_a_text_s_likelihood_is_its_windows_sum(model: FinMoE) -> None:
    text = "profit sales bank shares orders margin the today again"
    ids = model.tok_encode(text, add_special_tokens=False)
    (whole,) = likelihoods(model.model, [([model.prefix_token_id], ids)])
    (found,) = model.loglikelihood_rolling([asked("loglikelihood_rolling", text)])
    assert found == pytest.approx(whole.total, abs=1e-4)
    long = " ".join([text] * 20)
    (longer,) = model.loglikelihood_rolling([asked("loglikelihood_rolling", long)])
    assert longer < 10 * found


def test_what_is_written_ends_before_a_stopping_text(model: FinMoE) -> None:
    options = {"max_gen_toks": 5, "do_sample": False}
    (whole,) = model.generate_until([asked("generate_until", "moon bags", options)])
    first = whole.split()[0]
    (cut,) = model.generate_until([asked("generate_until", "moon bags", options | {"until": [first]})])
    assert whole
    assert cut == ""


def test_prompts_longer_than_the_context_lose_their_beginning(model: FinMoE) -> None:
    long = " ".join(["profit"] * 200)
    (found,) = model.loglikelihood([asked("loglikelihood", long, " moon")], disable_tqdm=True)
    assert found[0] < 0
    assert model.generate_until([asked("generate_until", long, {"max_gen_toks": 2})])


def test_the_bare_backbone_is_another_model(taught: Workspace, model: FinMoE) -> None:
    bare = FinMoE(str(taught.out / "moe-instruct"), bare=True)
    one = [asked("loglikelihood", "moon bags", " rose")]
    assert bare.loglikelihood(one, disable_tqdm=True) != model.loglikelihood(one, disable_tqdm=True)
    with pytest.raises(Fault, match="soft or hard"):
        FinMoE(taught.out / "moe-instruct", routing="sofd")
    with pytest.raises(Fault):
        FinMoE(Path("nowhere"))
