"""Model card of the ready mixture: data with licences and attribution, figures, intended use, limits, hashes."""

from collections.abc import Iterator, Mapping, Sequence

from ready_figures import UNSEEN, Figure

from moe.checkpoints.mixture_card import MixtureCard
from moe.data.distilled.soft_labels import read_soft_rows
from moe.runs.workspace import Workspace

SOURCES = {
    "headlines": (
        "[SEntFiN 1.0](https://github.com/pyRis/SEntFiN) (Sinha, Kedas, Kumar and Malo, 2022): headlines whose "
        "entities agree",
        "MIT",
    ),
    "headline_entities": ("SEntFiN 1.0: every entity of every headline", "MIT"),
    "report_entities": (
        "[FinEntity](https://github.com/yixuantt/FinEntity) (Tang, Yang, Huang, Zhou and Feng, EMNLP 2023): "
        "entities in news sentences",
        "ODC-BY 1.0",
    ),
    "tweets": (
        "[twitter-financial-news-sentiment](https://huggingface.co/datasets/zeroshot/twitter-financial-news-sentiment) "
        "1.0.0, train split",
        "MIT",
    ),
    "statements": ("plain sentences, written by a program of FinMoE (`moe/synthetic/statements.py`)", "Apache-2.0"),
    "statement_entities": ("plain sentences about two firms, written by the same program", "Apache-2.0"),
    "posts": ("plain forum posts, written by the same program", "Apache-2.0"),
}
"""Source and licence of each task's rows."""
UNLABELLED = (
    "[stocknet-dataset](https://github.com/yumoxu/stocknet-dataset) (Xu and Cohen, ACL 2018): tweets without labels, "
    "for the router only",
    "MIT",
)
LABELLED_BY_TEACHER = {
    "news": (
        "texts that the teacher labelled: sentences of FinEntity, sentences of company reports in "
        "[FinQA](https://github.com/czyssrs/FinQA) (Chen et al., EMNLP 2021), "
        "[ConvFinQA](https://github.com/czyssrs/ConvFinQA) (Chen et al., EMNLP 2022) and "
        "[TAT-QA](https://github.com/NExTplusplus/TAT-QA) (Zhu et al., ACL 2021), and statements of our program",
        "ODC-BY 1.0, MIT, CC BY 4.0, Apache-2.0",
    ),
    "forum": ("texts that the teacher labelled: tweets of stocknet-dataset", "MIT"),
}
"""Source and licence of each domain's texts for the teacher, if there is one."""
NAMES = {"fpb.csv": "Financial PhraseBank", "stockemotions.csv": "StockEmotions", "fiqa_sa.csv": "FiQA"}

HEAD = """---
library_name: finmoe
pipeline_tag: text-classification
language: en
license: apache-2.0
tags: [finmoe, mixture-of-experts, lora, finance]
base_model: sentence-transformers/all-MiniLM-L6-v2
---

# The ready mixture

A mixture of two domain experts (`news`, `forum`) and a shared expert on the frozen all-MiniLM-L6-v2 (22.7 M
parameters). It labels English financial text as negative, neutral or positive; and, if a target is given, as it is
for that company. The package ships it:

```bash
moe infer "Profit rose 20% in the third quarter."
moe infer --target Apple --target Microsoft "Apple gains as Microsoft slips"
```
"""

TEACHER = """**Teacher:** one LoRA on the frozen [all-mpnet-base-v2](https://huggingface.co/sentence-transformers/all-mpnet-base-v2)
(109 M parameters, Apache-2.0), trained on training rows of these tasks, and on nothing else.
It gave the training texts, their entities and the texts without labels probabilities, which the mixture also learned.
"""

USE = """## Intended use and limits

Use it for a first answer, as a starting point for a model of your own (`shared: {init: ready}`), or as a baseline.
Text that it predicts is public news, company statements or posts about listed companies, in English.

- It **never saw** Financial PhraseBank, StockEmotions and FiQA: no row of them was used in training, in validation or
  to fit a temperature. The recipe was chosen on its own validation rows and on sentences that we wrote. But figures
  on Financial PhraseBank were printed beside them during the search, its style was known when the statements were
  written, and its figures decided for the recipe with a teacher. Over all recipes that were tried, its accuracy there
  was between .70 and .79.
- Label conventions differ. SEntFiN often calls a fact neutral that annotators of Financial PhraseBank call positive,
  such as a new contract. On bullish and bearish posts (StockEmotions) it is little better than chance.
- Irony, slang newer than its data, and long documents (beyond 96 tokens it truncates) are beyond it. So are languages
  other than English.
- Headlines of SEntFiN are about Indian companies, mostly from 2010 to 2020; FinEntity is news of one agency; the
  tweets are from 2019 and 2020.
- Sentiment is not a forecast of a price. Nothing here is investment advice.
- Probabilities are calibrated on validation rows; on other text they are too confident, as the calibration errors
  (ECE) above show.
"""


def format_card(
    card: MixtureCard,
    work: Workspace,
    hashes: Mapping[str, str],
    own: Sequence[Figure],
    unseen: Sequence[Figure],
    seen: Mapping[str, int],
    config: str,
    machine: str,
) -> str:
    """Format the card as Markdown, with the front matter that model hubs read.

    Args:
        card: of the mixture.
        hashes: SHA-256 of each task's file.
        own: figures on held-out rows.
        unseen: figures on data that it never saw.
        seen: number of texts of each unseen data set that are near a training text.
        config: name of the config's file.
        machine: on which it was trained.
    """
    run, rows = work.run, work.rows("train")["task"]
    near = ", ".join(f"{seen[name]} of {NAMES[name]}" for name in UNSEEN)
    return "\n".join(
        [
            HEAD,
            "## Training data",
            "",
            "All licences permit commercial use and redistribution of models. The package holds no text of a data set.",
            "",
            "| task | source | licence | training rows | SHA-256 of the file |",
            "|---|---|---|---|---|",
            *(
                f"| `{task}` | {source} | {licence} | {sum(name == task for name in rows):,} | `{hashes[task][:16]}…` |"
                for task, (source, licence) in SOURCES.items()
            ),
            f"| – | {UNLABELLED[0]} | {UNLABELLED[1]} | {run.domains['forum'].max_unlabelled_rows:,} | |",
            *teacher_rows(work),
            "",
            *([] if run.distill is None else [TEACHER]),
            f"Seed {run.seed}; stage {card.stage}; trained with `python benchmarks/ready.py FOLDER` and "
            f"`configs/{config}` on {machine}. "
            f"Backbone weights: SHA-256 `{card.backbone.sha256}`. `manifest.json` lists the hash of every file.",
            "",
            "## Figures on held-out rows of these data sets",
            "",
            *_table(own),
            "",
            "## Figures on data that it never saw",
            "",
            *_table(unseen),
            "",
            f"Texts of these data sets that are near a training text (Jaccard similarity of .85 or more): {near}. "
            "They stay in the figures.",
            "",
            USE,
        ]
    )


def teacher_rows(work: Workspace) -> Iterator[str]:
    """Yield a row of the table of data for each domain whose texts a teacher labelled."""
    if (distill := work.run.distill) is None:
        return
    for domain, (source, licence) in LABELLED_BY_TEACHER.items():
        task = work.run.distilled_tasks(domain)[0]
        soft = read_soft_rows(work.soft_file(domain, task), distill.of_labels(domain))
        yield f"| – | {source} | {licence} | {int((~soft.labelled).sum()):,} | |"


def _table(figures: Sequence[Figure]) -> Iterator[str]:
    yield "| data | rows | accuracy (95 %) | macro-F1 (95 %) | ECE |"
    yield "|---|---|---|---|---|"
    for figure in figures:
        cells = [
            f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
            for interval in (figure.accuracy, figure.macro_f1)
        ]
        yield f"| {figure.data} | {figure.rows:,} | {cells[0]} | {cells[1]} | {figure.ece:.3f} |"
    yield from (f"\n{figure.data}: {figure.note}." for figure in figures if figure.note)
