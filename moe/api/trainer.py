"""FinMoETrainer: a mixture trained on `datasets.Dataset`s, one per domain."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import ClassLabel, Dataset, concatenate_datasets
from transformers import TrainerCallback

from experts.errors import Fault
from moe.api.fit import DomainRows, Overrides, run_settings, train_rows
from moe.api.model import FinMoEModel
from moe.evaluation.evaluate import evaluate
from moe.evaluation.test_sets import load_evaluation_rows
from moe.inference.rows import Row
from moe.inference.text_io import OutputTarget
from moe.results.evaluation import EvaluationReport
from moe.runs.workspace import Workspace

VALIDATION_SHARE = 0.1
"""Share of a domain's training rows that select the best weights, if it has no evaluation data set."""
COLUMNS = ("text", "label", "score", "target", "id")


class FinMoETrainer:
    """Trains one expert per domain on a shared one, merges them, and trains the router and the mixture.

    Each data set has the columns `text` and `label`, a name or a `ClassLabel`, and optionally `score` (polarity, −1 to
    1), `target` (the entity that the label is about) and `id`. With a single domain, one expert is trained without a
    router.

    Args:
        train_datasets: training rows by name of the domain; names may contain lower-case letters, digits, `-` and `_`.
        eval_datasets: rows by domain that select the best weights and are not trained on; by default a tenth of the
            training rows.
        config: a YAML file of settings, whose domains are replaced; `configs/demo.yaml` by default.
        overrides: settings that replace those of the config, such as `{"stages": {"joint": {"epochs": 1}}}`.
        output_dir: the run folder to write. By default a temporary folder, which is deleted with the trainer; another
            `train` replaces the run of an earlier one.
        callbacks: transformers' callbacks, called by the training loop of every stage.
        seed: of initial weights and of the order of rows; None uses the seed of the config.
        verbose: whether to show the progress of training.

    Attributes:
        model: the trained model; None before `train`.
        labels: names of the labels by domain, in the order of the data set's `ClassLabel`, else sorted.

    Raises:
        Fault: if a data set lacks a column, a label is missing, or the domains of both arguments differ.

    Examples:
        >>> from datasets import Dataset
        >>> from moe import FinMoETrainer
        >>> subjects = ["Profit", "Revenue", "Sales", "Orders", "Margins", "Cash flow", "Demand", "Earnings"]
        >>> texts = [f"{subject} {verb} in the quarter." for subject in subjects for verb in ("rose", "fell")]
        >>> news = Dataset.from_dict({"text": texts, "label": ["positive", "negative"] * len(subjects)})
        >>> overrides = {"stages": {"expert": {"epochs": 2, "min_steps": 1}}}
        >>> trainer = FinMoETrainer({"news": news}, overrides=overrides, seed=0)
        >>> trainer.train().predict(["Bookings rose strongly.", "Bookings fell sharply."])
        ['positive', 'negative']
    """

    def __init__(
        self,
        train_datasets: Mapping[str, Dataset],
        eval_datasets: Mapping[str, Dataset] | None = None,
        *,
        config: str | Path | None = None,
        overrides: Overrides = (),
        output_dir: str | Path | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        seed: int | None = None,
        verbose: bool = False,
    ) -> None:
        if not train_datasets:
            raise Fault("training rows of at least one domain", "none", "pass {'news': dataset}")
        if eval_datasets is not None and eval_datasets.keys() != train_datasets.keys():
            raise Fault(
                f"evaluation rows of the domains {', '.join(train_datasets)}",
                ", ".join(eval_datasets) or "none",
                "pass a data set for each domain, or none at all",
            )
        self.train_datasets, self.eval_datasets = dict(train_datasets), eval_datasets and dict(eval_datasets)
        self.labels = {name: _label_names(name, dataset) for name, dataset in self.train_datasets.items()}
        self.callbacks, self.verbose = tuple(callbacks), verbose
        self._run = run_settings(config, overrides, self._domains(), seed)
        self._scratch = TemporaryDirectory(prefix="finmoe-", ignore_cleanup_errors=True) if output_dir is None else None
        self.output_dir = Path(self._scratch.name if self._scratch else str(output_dir))
        self.model: FinMoEModel | None = None

    def train(self) -> FinMoEModel:
        """Train all steps, and return the mixture that the validation rows select.

        Returns:
            the model, whose folder is inside `output_dir`.

        Raises:
            Fault: if the folder holds other files, or training fails.
            KeyboardInterrupt: on Ctrl-C, after a checkpoint.
        """
        labels = list(dict.fromkeys(label for names in self.labels.values() for label in names))
        folder = train_rows(
            self._run,
            self._domains(),
            self.output_dir,
            classes=labels,
            verbose=self.verbose,
            callbacks=self.callbacks,
        )
        self.model = FinMoEModel.load(folder)
        return self.model

    def evaluate(self, datasets: Mapping[str, Dataset]) -> EvaluationReport:
        """Evaluate the trained model on labelled rows.

        Args:
            datasets: rows by domain, with the columns of the training rows.

        Returns:
            the report of `moe evaluate`, such as `report.mean.macro_f1` with `report.mean.macro_f1_interval`.

        Raises:
            Fault: if nothing was trained yet, or a data set does not fit the training rows.
        """
        if self.model is None:
            raise Fault("a trained model", "none", "call train first")
        if unknown := [name for name in datasets if name not in self.train_datasets]:
            raise Fault(f"rows of the domains {', '.join(self.train_datasets)}", unknown[0], "rename the domain")
        predictor, work = self.model.torch_predictor, Workspace(self._run, self.output_dir)
        with TemporaryDirectory(prefix="finmoe-") as temporary:
            parts = []
            for name, dataset in datasets.items():
                file = Path(temporary) / f"{name}.jsonl"
                OutputTarget(file).write(_rows(name, dataset, self.labels[name]))
                parts.append(load_evaluation_rows(work, predictor.model, data=file, domain=name))
            rows = concatenate_datasets(parts)
            return evaluate(predictor.model, rows, predictor.template, predictor.max_length)[0]

    def _domains(self) -> dict[str, DomainRows]:
        domains = {}
        for name, dataset in self.train_datasets.items():
            labels = self.labels[name]
            if self.eval_datasets is None:
                held_out = max(round(VALIDATION_SHARE * len(dataset)), 1)
                ratios = (max(len(dataset) - held_out, 1), held_out, 0)
                domains[name] = DomainRows(_rows(name, dataset, labels), labels, ratios)
            else:
                train = _rows(name, dataset, labels, "train")
                held_out_rows = _rows(name, self.eval_datasets[name], labels, "validation")
                domains[name] = DomainRows(chain(train, held_out_rows), labels)
        return domains


def _label_names(domain: str, dataset: Dataset) -> tuple[str, ...]:
    """Names of a data set's labels: those of its `ClassLabel`, else the distinct ones, sorted."""
    if missing := [column for column in ("text", "label") if column not in dataset.column_names]:
        raise Fault(
            f"the columns text and label in the rows of {domain}",
            f"no {missing[0]}, but {', '.join(dataset.column_names)}",
            f"rename a column: dataset.rename_column('…', {missing[0]!r})",
        )
    feature = dataset.features["label"]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    values = dataset.unique("label")
    if any(value is None or not str(value).strip() for value in values):
        raise Fault(f"a label for each row of {domain}", "a missing label", "remove the rows without a label")
    return tuple(sorted(str(value) for value in values))


def _rows(domain: str, dataset: Dataset, labels: Sequence[str], split: str | None = None) -> Iterator[Row]:
    """Yield the rows of a data set with the names of their labels, and their split if it is given."""
    _label_names(domain, dataset)  # checks the columns
    feature, columns = dataset.features["label"], [name for name in COLUMNS if name in dataset.column_names]
    names = feature.names if isinstance(feature, ClassLabel) else None
    for number, row in enumerate(dataset.select_columns(columns)):
        label = row["label"]
        if label is None or (names is not None and not 0 <= label < len(names)):
            raise Fault(f"a label for each row of {domain}", f"{label} in row {number}", "remove the rows without one")
        name = str(label) if names is None else names[label]
        if name not in labels:
            raise Fault(f"one of the labels {', '.join(labels)} of {domain}", repr(name), "map or remove these rows")
        yield row | {"label": name} | ({"split": split} if split else {})
