"""What a model's training data looked like to it, kept beside the model: `drift.json` and `drift.safetensors`.

It is fitted by `moe.drift.fit`, and what is held against it by `moe.drift.drift`.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from experts.atomic_io import MANIFEST, atomic_file, sha256_of, write_json
from experts.cards import read_record
from experts.errors import Fault
from experts.safetensors_io import load_tensors, save_tensors

DRIFT, TENSORS = "drift.json", "drift.safetensors"
FORMAT = 1


class DriftCard(BaseModel):
    """What `drift.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    model: str = Field(description=f"SHA-256 of the {MANIFEST} of the model that it was fitted for")
    tensors: str = Field(description=f"SHA-256 of {TENSORS}")
    domains: tuple[str, ...]
    experts: tuple[str, ...] = Field(description="in the order of the shares")
    fitted: dict[str, int] = Field(description="training rows by domain, of which states were taken")
    validation: dict[str, int] = Field(description="validation rows by domain, with which files are compared")


@dataclass(frozen=True)
class DriftFeatures:
    """How a model took texts (N).

    Args:
        shares: (N, E), soft routing shares.
        confidence: (N,), of the answer, not calibrated.
        distance: (N,), of the pooled state from training texts, see `StateDistribution`.
    """

    shares: np.ndarray
    confidence: np.ndarray
    distance: np.ndarray

    def __len__(self) -> int:
        return len(self.confidence)

    def select(self, rows: np.ndarray) -> "DriftFeatures":
        """Some of them, by a mask or by places."""
        return DriftFeatures(self.shares[rows], self.confidence[rows], self.distance[rows])


@dataclass(frozen=True)
class StateDistribution:
    """Where training texts lie among pooled states (D): a mean for each of G domains, one spread around it for all.

    The spread is probabilistic PCA's (Tipping and Bishop, 1999): K directions with their variances, and one variance
    for all others, so that what lies off every direction that training texts vary in is far.

    Args:
        means: (G, D).
        directions: (K, D), of length 1.
        variances: (K,).
        noise: variance in every other direction.
    """

    means: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    noise: float

    def distance(self, states: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of states (N, D) from the nearest domain's mean, (N,)."""
        return np.sqrt(np.min([self._squared(states - mean) for mean in self.means], axis=0))

    def _squared(self, apart: np.ndarray) -> np.ndarray:
        along = apart @ self.directions.T  # (N, K)
        off = np.maximum((apart**2).sum(1) - (along**2).sum(1), 0.0)  # (N,)
        return (along**2 / self.variances).sum(1) + off / self.noise


@dataclass(frozen=True)
class Reference:
    """What a file is compared with.

    Args:
        experts: in the order of the shares.
        domains: of the model.
        space: of pooled states.
        held: validation rows as the model takes them.
        of: (N,), the index of each such row's domain.
    """

    experts: tuple[str, ...]
    domains: tuple[str, ...]
    space: StateDistribution
    validation: DriftFeatures
    domain_index: np.ndarray


def write_reference(folder: Path, found: Reference, fitted: dict[str, int]) -> DriftCard:
    """Write a model's reference beside its other files, over an older one. The manifest is left as it is.

    Raises:
        Fault: when the folder cannot be written.
    """
    parts = {field.name: getattr(found.space, field.name) for field in fields(StateDistribution)}
    parts |= {f"held.{field.name}": getattr(found.validation, field.name) for field in fields(DriftFeatures)} | {
        "of": found.domain_index
    }
    tensors = {name: torch.as_tensor(np.asarray(one)) for name, one in parts.items()}
    with atomic_file(folder / TENSORS) as temporary:
        save_tensors(temporary, tensors)
    held = {name: int((found.domain_index == i).sum()) for i, name in enumerate(found.domains)}
    card = DriftCard(
        model=sha256_of(folder / MANIFEST),
        tensors=sha256_of(folder / TENSORS),
        domains=found.domains,
        experts=found.experts,
        fitted=fitted,
        validation=held,
    )
    write_json(folder / DRIFT, card.model_dump(mode="json"))
    return card


def read_reference(folder: Path) -> Reference:
    """A model's reference.

    Raises:
        Fault: when it has none, or one that is broken, of a newer format, or of another model.
    """
    again = f"run moe drift {folder} --fit"
    if not (folder / DRIFT).is_file():
        raise Fault(f"a reference for drift at {folder / DRIFT}", "none", f"{again}, with the run's --config and --out")
    card = read_record(folder / DRIFT, DriftCard, FORMAT, "reference", again)
    if not (folder / MANIFEST).is_file() or card.model != sha256_of(folder / MANIFEST):
        raise Fault(f"the reference of this model at {folder / DRIFT}", "that of another", again)
    if not (folder / TENSORS).is_file() or card.tensors != sha256_of(folder / TENSORS):
        raise Fault(f"{folder / TENSORS} with sha256 {card.tensors[:12]}…", "another file or none", again)
    parts = {name: one.numpy() for name, one in load_tensors(folder / TENSORS).items()}
    space = StateDistribution(parts["means"], parts["directions"], parts["variances"], float(parts["noise"]))
    held = DriftFeatures(*(parts[f"held.{field.name}"] for field in fields(DriftFeatures)))
    return Reference(card.experts, card.domains, space, held, parts["of"])
