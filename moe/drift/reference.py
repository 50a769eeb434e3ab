"""A model's drift reference, stored in its folder as `drift.json` and `drift.safetensors`.

`moe.drift.fit` computes it; `moe.drift.drift` compares files with it.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from experts.atomic_io import MANIFEST, atomic_file, sha256_of
from experts.cards import read_record
from experts.errors import Fault
from experts.reused import write_sealed_json
from experts.safetensors_io import load_tensors, save_tensors

DRIFT, TENSORS = "drift.json", "drift.safetensors"
FORMAT, OLDEST_FORMAT = 2, 1  # format 1 has no hash of itself


class DriftCard(BaseModel):
    """Contents of `drift.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    model: str = Field(description=f"SHA-256 of the {MANIFEST} of the model that the reference was fitted for")
    tensors: str = Field(description=f"SHA-256 of {TENSORS}")
    domains: tuple[str, ...]
    experts: tuple[str, ...] = Field(description="in the order of the routing weights")
    fitted: dict[str, int] = Field(description="training rows by domain that the state distribution was fitted on")
    held: dict[str, int] = Field(description="validation rows by domain that files are compared with")


@dataclass(frozen=True)
class DriftFeatures:
    """What a model computes for N texts and drift is measured on.

    Field names are tensor names in `drift.safetensors`.

    Args:
        shares: soft routing weights (N, E).
        confidence: probability of the predicted label, not calibrated (N,).
        distance: distance of the pooled state from the training texts (N,), see `StateDistribution`.
    """

    shares: np.ndarray
    confidence: np.ndarray
    distance: np.ndarray

    def __len__(self) -> int:
        return len(self.confidence)

    def select(self, rows: np.ndarray) -> "DriftFeatures":
        """Return the features of some texts, given by a mask or by indices."""
        return DriftFeatures(self.shares[rows], self.confidence[rows], self.distance[rows])


@dataclass(frozen=True)
class StateDistribution:
    """Distribution of the pooled states of training texts: one mean for each of G domains, one shared covariance.

    The covariance is that of probabilistic PCA (Tipping and Bishop, 1999): K directions with a variance each, and one
    variance for all remaining directions. States that leave the directions in which training texts vary are therefore
    far away.

    Args:
        means: (G, D).
        directions: unit vectors (K, D).
        variances: (K,).
        noise: variance in every other direction.
    """

    means: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    noise: float

    def distance(self, states: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of states (N, D) from the mean of the nearest domain (N,)."""
        distances: np.ndarray = np.sqrt(np.min([self._squared(states - mean) for mean in self.means], axis=0))
        return distances

    def _squared(self, offsets: np.ndarray) -> np.ndarray:
        along = offsets @ self.directions.T  # (N, K)
        residual = np.maximum((offsets**2).sum(1) - (along**2).sum(1), 0.0)  # (N,)
        squared: np.ndarray = (along**2 / self.variances).sum(1) + residual / self.noise
        return squared


@dataclass(frozen=True)
class Reference:
    """Everything that a file is compared with.

    Args:
        experts: names, in the order of the routing weights.
        domains: domains that the model was trained on.
        space: distribution of pooled states.
        validation: features of validation texts.
        domain_index: domain of each validation text (N,), an index into `domains` or −1.
    """

    experts: tuple[str, ...]
    domains: tuple[str, ...]
    space: StateDistribution
    validation: DriftFeatures
    domain_index: np.ndarray


def write_reference(folder: Path, reference: Reference, fitted: dict[str, int]) -> DriftCard:
    """Write a reference into a model's folder, replacing an older one. The folder's manifest is left unchanged.

    Args:
        folder: the model's folder.
        reference: what to write.
        fitted: training rows by domain that `reference.space` was fitted on.

    Raises:
        Fault: if the folder cannot be written.
    """
    arrays = {field.name: getattr(reference.space, field.name) for field in fields(StateDistribution)}
    for field in fields(DriftFeatures):
        arrays[f"held.{field.name}"] = getattr(reference.validation, field.name)
    arrays["of"] = reference.domain_index
    tensors = {name: torch.as_tensor(np.asarray(array)) for name, array in arrays.items()}
    with atomic_file(folder / TENSORS) as temporary:
        save_tensors(temporary, tensors)
    card = DriftCard(
        model=sha256_of(folder / MANIFEST),
        tensors=sha256_of(folder / TENSORS),
        domains=reference.domains,
        experts=reference.experts,
        fitted=fitted,
        held={name: int((reference.domain_index == i).sum()) for i, name in enumerate(reference.domains)},
    )
    write_sealed_json(folder / DRIFT, card.model_dump(mode="json"))
    return card


def read_reference(folder: Path) -> Reference:
    """Read a model's drift reference.

    Raises:
        Fault: if there is none, or if it is damaged, of a newer format, or belongs to another model.
    """
    remedy = f"fit it with `moe drift {folder} --fit`"
    if not (folder / DRIFT).is_file():
        raise Fault(
            f"a drift reference at {folder / DRIFT}", "no such file", f"{remedy}, with the run's --config and --run"
        )
    card = read_record(folder / DRIFT, DriftCard, FORMAT, "reference", remedy, OLDEST_FORMAT, sealed=2)
    if not (folder / MANIFEST).is_file() or card.model != sha256_of(folder / MANIFEST):
        raise Fault(f"the drift reference of this model at {folder / DRIFT}", "one of another model", remedy)
    if not (folder / TENSORS).is_file() or card.tensors != sha256_of(folder / TENSORS):
        raise Fault(f"{folder / TENSORS} with sha256 {card.tensors[:12]}…", "another file or none", remedy)
    arrays = {name: tensor.numpy() for name, tensor in load_tensors(folder / TENSORS).items()}
    space = StateDistribution(arrays["means"], arrays["directions"], arrays["variances"], float(arrays["noise"]))
    validation = DriftFeatures(*(arrays[f"held.{field.name}"] for field in fields(DriftFeatures)))
    return Reference(
        experts=card.experts,
        domains=card.domains,
        space=space,
        validation=validation,
        domain_index=arrays["of"],
    )
