"""Tests of instruction tuning: the loss covers answers only, the router reads prompts only, the mixture improves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_backbone
from corpora import instructed_workspace, make_lm_workspace
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from experts.atomic_io import read_json
from experts.errors import Fault
from moe.checkpoints.mixture import read_mixture
from moe.data.collator import model_inputs
from moe.data.lm_collator import InstructionCollator
from moe.inference.generator import Generator, Sampling
from moe.inference.prompt_tokens import PromptEncoder
from moe.model.lm_head import IGNORE_INDEX
from moe.runs.workspace import Workspace
from moe.training.language.instruct import instruct, question_data

CHAT = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
ROWS: list[dict[str, Any]] = [
    {"input_ids": [1, 5, 6, 7, 8], "begins": 3, "domain": "macro"},
    {"input_ids": [1, 9, 8], "begins": 2, "domain": "else"},
]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Merged and instruction-tuned mixture of role experts."""
    return instructed_workspace(tmp_path_factory.getbasetemp())


def test_instruction_collator_masks_prompts_in_the_loss_and_answers_in_the_router() -> None:
    batch = InstructionCollator(0, ["news", "macro"])(ROWS)
    assert batch["tokens"].tolist() == [
        [IGNORE_INDEX, IGNORE_INDEX, 7, 8, IGNORE_INDEX],
        [IGNORE_INDEX, 8, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX],
    ]
    assert batch["router_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch["domain"].tolist() == [1, -1]


def test_gates_of_a_question_do_not_depend_on_its_answer(taught: Workspace) -> None:
    model, _ = read_mixture(taught.out / "moe-instruct")
    model.eval()
    collate = InstructionCollator(0, ["news", "forum"])
    other = [row | {"input_ids": [*row["input_ids"][: row["begins"]], 11, 12]} for row in ROWS]
    with torch.no_grad():
        gates = [model(**model_inputs(collate(rows))).routing.gates for rows in (ROWS, other)]
    torch.testing.assert_close(*gates)


def test_instruction_tuning_improves_answers_and_reports_perplexity(taught: Workspace) -> None:
    history = read_json(taught.out / "moe-instruct" / "metrics.json")
    before, after = (read_mixture(taught.out / name)[0] for name in ("moe-init", "moe-instruct"))
    untrained = question_data(taught, before).evaluate()
    for key in ("perplexity", "perplexity_news", "perplexity_forum"):
        assert history["best"][key] < 0.8 * untrained[key], "the random LM head limits the improvement"
    rows = taught.questions("train")
    generator = Generator(after, sampling=Sampling(max_new_tokens=1))
    generations = generator.generate([generator.encode(prompt) for prompt in rows["prompt"]])
    correct = sum(output.text == answer for output, answer in zip(generations, rows["answer"], strict=True))
    assert correct > 0.6 * len(rows), "there are three possible answers"


def test_finished_instruct_is_kept(taught: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    before = (taught.out / "moe-instruct" / "metrics.json").read_bytes()
    assert instruct(taught) == taught.out / "moe-instruct"
    assert "moe-instruct: finished earlier, kept; --overwrite trains it again" in capsys.readouterr().err
    assert (taught.out / "moe-instruct" / "metrics.json").read_bytes() == before


def test_questions_longer_than_max_length_are_skipped_and_counted(
    taught: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = read_mixture(taught.out / "moe-init")
    backbone = taught.run.backbone.model_copy(update={"max_length": 14})
    short = Workspace(taught.run.model_copy(update={"backbone": backbone}), taught.out, taught.out)
    data = question_data(short, model)
    assert max(len(ids) for ids in data.rows["input_ids"]) <= 14
    assert "skipped 2 of 144 questions, longer than backbone.max_length (14)" in capsys.readouterr().err
    backbone = taught.run.backbone.model_copy(update={"max_length": 2})
    with pytest.raises(Fault, match="at most 2 tokens"):
        question_data(Workspace(taught.run.model_copy(update={"backbone": backbone}), taught.out, taught.out), model)


def test_instruct_refuses_a_run_without_questions_or_language_model(tmp_path: Path, taught: Workspace) -> None:
    with pytest.raises(Fault, match="`ask`"):
        make_lm_workspace(tmp_path).questions("train")
    with pytest.raises(Fault, match="language"):
        instruct(Workspace(taught.run.model_copy(update={"language": None}), tmp_path))


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(save_backbone(folder, "llama"))


def test_prompt_and_answer_are_formatted_by_the_chat_template_if_there_is_one(tmp_path: Path) -> None:
    plain = PromptEncoder(tokenizer(tmp_path))
    assert not plain.uses_chat_template
    with pytest.raises(Fault, match="chat template"):
        PromptEncoder(plain.tokenizer, chat=True)
    plain.tokenizer.chat_template = CHAT
    chat = PromptEncoder(plain.tokenizer)
    text = "moon today"
    turns = [{"role": "user", "content": text}]
    framed = plain.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert chat.encode_prompt(text) == plain.tokenizer(framed, add_special_tokens=False)["input_ids"]
    assert PromptEncoder(plain.tokenizer, chat=False).encode_prompt(text) == plain.tokenizer(text)["input_ids"]
    plain.tokenizer.eos_token = "[SEP]"
    assert chat.encode_answer("moon") == [*chat.encode_continuation("moon"), plain.tokenizer.eos_token_id]
    assert PromptEncoder(plain.tokenizer, chat=False).encode_prompt(text)[-1] != plain.tokenizer.eos_token_id
