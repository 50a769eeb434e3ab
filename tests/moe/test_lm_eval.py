"""Claims about `moe.lm_eval`: the harness evaluates a mixture, and its results equal those of this package."""

from pathlib import Path
from typing import Any

import pytest
from corpora import instructed_workspace
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
def instructed(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A run whose mixture was instruction-tuned on its questions."""
    return instructed_workspace(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def model(instructed: Workspace) -> FinMoE:
    """The run's mixture as a model of the harness."""
    return FinMoE(instructed.out / "moe-instruct")


def instance(kind: Any, *args: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=args, idx=0)


@pytest.mark.slow
def test_harness_takes_the_choice_of_the_highest_likelihood(instructed: Workspace, model: FinMoE) -> None:
    questions = load_run_questions(instructed, ["news-tone"])
    rows = Dataset.from_list(
        [
            {
                "prompt": question.prompt,
                "choices": question.choices,
                "gold": question.choices.index(question.answer),
            }
            for question in questions
        ]
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
    results = simple_evaluate(model=model, tasks=[ConfigurableTask(config=config)], bootstrap_iters=0)
    assert results is not None
    correct = [_most_likely_choice(model, question) == question.answer for question in questions]
    assert results["results"]["tone"]["acc,none"] == pytest.approx(sum(correct) / len(correct))


def _most_likely_choice(model: FinMoE, question: EvalQuestion) -> str:
    """The choice with the highest likelihood given the prompt, as the harness tokenizes it."""
    encoder = model.generator.prompt_encoder
    prompt = model.tok_encode(question.prompt)
    pairs = [(prompt, encoder.encode_continuation(choice)) for choice in question.choices]
    totals = [likelihood.total for likelihood in likelihoods(model.model, pairs)]
    return question.choices[totals.index(max(totals))]


def test_rolling_likelihood_of_a_text_is_the_sum_over_its_windows(model: FinMoE) -> None:
    text = "profit sales bank shares orders margin the today again"
    ids = model.tok_encode(text, add_special_tokens=False)
    (expected,) = likelihoods(model.model, [([model.prefix_token_id], ids)])
    (total,) = model.loglikelihood_rolling([instance("loglikelihood_rolling", text)])
    assert total == pytest.approx(expected.total, abs=1e-4)
    long_text = " ".join([text] * 20)
    (long_total,) = model.loglikelihood_rolling([instance("loglikelihood_rolling", long_text)])
    assert long_total < 10 * total


def test_generation_ends_before_a_stop_string(model: FinMoE) -> None:
    options = {"max_gen_toks": 5, "do_sample": False}
    (complete,) = model.generate_until([instance("generate_until", "moon bags", options)])
    first = complete.split()[0]
    (truncated,) = model.generate_until([instance("generate_until", "moon bags", options | {"until": [first]})])
    assert complete
    assert truncated == ""


def test_prompts_longer_than_the_context_lose_their_beginning(model: FinMoE) -> None:
    long_prompt = " ".join(["profit"] * 200)
    (scored,) = model.loglikelihood([instance("loglikelihood", long_prompt, " moon")], disable_tqdm=True)
    assert scored[0] < 0
    assert model.generate_until([instance("generate_until", long_prompt, {"max_gen_toks": 2})])


def test_bare_backbone_is_another_model(instructed: Workspace, model: FinMoE) -> None:
    bare = FinMoE(str(instructed.out / "moe-instruct"), bare=True)
    requests = [instance("loglikelihood", "moon bags", " rose")]
    assert bare.loglikelihood(requests, disable_tqdm=True) != model.loglikelihood(requests, disable_tqdm=True)
    with pytest.raises(Fault, match="soft or hard"):
        FinMoE(instructed.out / "moe-instruct", routing="sofd")
    with pytest.raises(Fault):
        FinMoE(Path("nowhere"))
