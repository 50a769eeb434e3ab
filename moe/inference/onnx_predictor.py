"""Predictions with a graph in onnxruntime: the same scores as PyTorch's in fp32, without importing torch."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moe.data.token_batches import batch_by_tokens
from moe.inference.calibration import Calibration
from moe.inference.graph.session import GraphSession
from moe.inference.graph.spec import TOKENIZER_FILE
from moe.inference.graph.text_encoder import TextEncoder
from moe.inference.predictor import CPU_TOKEN_BUDGET, Predictor, Routing, Scores, first_windows, scores_of_windows


class OnnxPredictor(Predictor):
    """Scores texts with a model's graph and turns the scores into predictions.

    Args:
        session: the loaded graph.
        routing: `soft` mixes the experts, `hard` sends each text to its most probable expert.
        windows: average a long text over all its windows, instead of at most as many as in training.
        batch_tokens: tokens in a batch, padding included; by default as many as fit a CPU's caches.
        calibration: its temperatures divide the logits; None leaves the logits unchanged.
        abstain: target accuracy; predictions below the confidence that it needs abstain. Needs a calibration.
        states: also return the pooled hidden states in `Scores`.
    """

    def __init__(
        self,
        session: GraphSession,
        routing: Routing = "soft",
        windows: bool = False,
        batch_tokens: int | None = None,
        calibration: Calibration | None = None,
        abstain: float | None = None,
        states: bool = False,
    ) -> None:
        graph = session.spec
        super().__init__(graph.spec, batch_tokens or CPU_TOKEN_BUDGET, routing, windows, calibration, abstain)
        self.session = session
        self.encoder = TextEncoder(
            session.graph / TOKENIZER_FILE,
            self.template,
            self.max_length,
            graph.truncation_side,
            self.spec.window_overlap,
        )
        self.outputs = [name for name in graph.outputs if states or name != "states"]
        self.domain_index = {domain.name: index for index, domain in enumerate(self.spec.domains)}

    def score(
        self,
        texts: Sequence[str],
        pin: Sequence[str | None] | None = None,
        targets: Sequence[str | None] | None = None,
    ) -> Scores:
        """Score texts (B) in batches of similar length; see `Predictor.score`."""
        ids, text_index = self.encoder.encode(texts, targets)
        counts = np.bincount(text_index, minlength=len(texts))  # (B,), windows of each text
        read = first_windows(text_index, self.window_limit)
        ids, text_index = [ids[i] for i in read], text_index[read]
        domain = np.array([self.domain_index.get(pin[i] or "", -1) if pin else -1 for i in text_index])  # (W,)
        batches = batch_by_tokens([len(window) for window in ids], self.batch_tokens)
        outputs = [self._forward([ids[i] for i in batch], domain[batch]) for batch in batches]
        order = np.argsort(np.concatenate(batches))  # (W,), undoes the batching
        windows = {name: np.concatenate([output[name] for output in outputs])[order] for name in outputs[0]}
        scores = scores_of_windows(windows, text_index, counts, self.window_weights([len(window) for window in ids]))
        if targets is None or not any(targets):
            return scores
        return replace(scores, target_truncated=self.encoder.long_targets(targets))

    def _forward(self, ids: Sequence[list[int]], domain: np.ndarray) -> dict[str, np.ndarray]:
        """One batch of windows (W): logits as `head/NAME`, `polarity`, `routing_weights`, `states`."""
        lengths = np.array([len(row) for row in ids])  # (W,)
        mask = np.arange(lengths.max()) < lengths[:, None]  # (W, T)
        padded = np.full(mask.shape, self.session.spec.pad_id)  # (W, T)
        padded[mask] = np.concatenate(ids)
        feed = {
            "input_ids": padded,
            "attention_mask": mask.astype(np.int64),
            "domain": domain,
            "hard": np.array(self.hard),
        }
        values = self.session.run(self.outputs, {name: feed[name] for name in self.session.spec.inputs})
        names = [name.replace("logits/", "head/", 1) for name in self.outputs]
        return dict(zip(names, values, strict=True))
