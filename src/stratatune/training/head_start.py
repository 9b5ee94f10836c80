"""``head_start: fitted``: fit a new output layer to separate the classes on the frozen model before training.

The output layer alone is fitted to its input from the untrained model, by the objective's own loss and a penalty on its
weights, on at most :data:`SAMPLE` training examples. Its weights then keep their direction and become at most
:data:`TIMES` times as large as they were drawn: the pooled values of a pretrained model are small (a spread of 0.02 in
MiniLM), so weights that fit it are tens of times as large, and with them a step of the blocks below would change the
logits as many times as much. After Kumar et al. 2022 (arXiv 2202.10054), who train the output layer first; the size is
ours, measured by ``benchmarks/starts.py``.

Shapes: n places that are read of a batch, D inputs of the output layer, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stratatune.errors import ConfigError
from stratatune.training import distributed
from stratatune.training.machine import now

if TYPE_CHECKING:
    from stratatune.data.batching import Batch
    from stratatune.objectives.objective import Objective
    from stratatune.training.session import Session

HEADS = frozenset({"sequence", "token"})
"""Heads with an output layer that no pretrained model brings."""
SAMPLE = 1000
"""The most examples that are read."""
STRENGTHS = (1.0, 0.1, 0.01)
"""Strengths of the penalty; the one with the smallest loss on a fifth of the batches is taken."""
TIMES = 3.0
"""The most that fitted weights may exceed drawn ones, as a factor."""
_HELD, _ITERATIONS, _SMALL, _LARGEST = 5, 200, 1e-6, 10**9


@dataclass(frozen=True)
class Part:
    """A batch as the output layer reads it: ``inputs`` [n, D], and the shape of the logits."""

    batch: Batch
    inputs: Tensor
    shape: torch.Size


def fit_head(session: Session) -> float:
    """Fit the output layer of a run that has not begun.

    Tens of thousands of outputs are left as they were drawn: their fit would take longer than it saves.
    The examples are those of the first batches, in these very batches, so that a cache holds what the first epoch would
    have put there.

    Returns:
        The seconds that it took, without the trunk's.

    Raises:
        ConfigError: the objective has no new output layer, or the run has several processes.
    """
    started, in_trunk = now(session.device), session.feed.clock.trunk_seconds
    layer = _output_layer(session)
    with torch.no_grad(), session.forward.evaluating():
        parts = list(_parts(session, layer))
    every = torch.cat([part.inputs for part in parts])
    if every.numel() * layer.out_features > _LARGEST:
        return _spent(session, started, in_trunk)
    # Without a bias nothing can take up the mean.
    mean = every.mean(0) if layer.bias is not None else torch.zeros_like(every[0])
    # One number for all inputs: by its own, one that hardly varies would get a weight that outgrows all others.
    spread = every.var(0, correction=0).mean().sqrt() + _SMALL
    parts = [Part(part.batch, (part.inputs - mean) / spread, part.shape) for part in parts]
    fit = _Fit(session.objective, layer)
    weight, bias = fit(parts, _strength(fit, parts))
    weight = weight / spread
    norm = weight.norm()
    if torch.isfinite(norm) and norm > _SMALL:  # else there is nothing to be read, and the layer stays as it was drawn
        weight = weight * (TIMES * layer.weight.detach().norm() / norm).clamp(max=1.0)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if layer.bias is not None:
                layer.bias.copy_(bias - weight @ mean)
    return _spent(session, started, in_trunk)


def _spent(session: Session, started: float, in_trunk: float) -> float:
    """Seconds since then, without the trunk's."""
    return now(session.device) - started - (session.feed.clock.trunk_seconds - in_trunk)


def _output_layer(session: Session) -> nn.Linear:
    """The last linear of the new layers; some families have a dense one before it."""
    backbone = session.top.attached.backbone
    parts = [part for path in backbone.head.new_layers for part in backbone.body.part(path).modules()]
    layer = next((part for part in reversed(parts) if isinstance(part, nn.Linear)), None)
    if layer is None:
        raise ConfigError(
            [f"head_start: {session.objective.name} has no new output layer that could be fitted"],
            "legal here: head_start: drawn",
        )
    if distributed.world() > 1:
        raise ConfigError(["head_start: fitted is for one process"], "legal here: head_start: drawn")
    return layer


def _parts(session: Session, layer: nn.Linear) -> Iterator[Part]:
    """The output layer's input for a sample of the training data, by the untrained model."""
    seen: list[Tensor] = []

    def see(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        # Doubles: over thousands of sums in single precision the rounding errors would add up.
        wide = torch.float32 if given[0].device.type == "mps" else torch.float64
        seen.append(given[0].to(wide).reshape(-1, given[0].shape[-1]))

    handle = layer.register_forward_pre_hook(see)
    try:
        read = 0
        for index in session.batches(0):
            batch = session.forward.batch(session.train, index)
            # At once: pieces would come in another order.
            logits = session.forward.at_once(session.feed.hidden(batch), batch, training=False)
            yield Part(batch, seen.pop(), logits.shape)
            read += len(index)
            if read >= SAMPLE:
                return
    finally:
        handle.remove()


class _Fit:
    """Finds the weight [C, D] and bias [C] with the smallest loss on some parts, by L-BFGS."""

    def __init__(self, objective: Objective, layer: nn.Linear) -> None:
        self.objective, self.size, self.biased = objective, layer.weight.shape, layer.bias is not None

    def __call__(self, parts: list[Part], strength: float) -> tuple[Tensor, Tensor]:
        weight = parts[0].inputs.new_zeros(self.size).requires_grad_()
        bias = parts[0].inputs.new_zeros(self.size[0]).requires_grad_(self.biased)
        given = [weight, bias] if self.biased else [weight]
        # To convergence: an early stop would depend on the last bits of the inputs.
        exact = {"tolerance_grad": 1e-8, "tolerance_change": 1e-14, "line_search_fn": "strong_wolfe"}
        optimiser = torch.optim.LBFGS(given, max_iter=_ITERATIONS, **exact)

        def closure() -> Tensor:
            optimiser.zero_grad()
            found = self.loss(parts, weight, bias) + strength / 2 * weight.square().sum()
            found.backward()
            return found

        with torch.enable_grad():
            optimiser.step(closure)
        return weight.detach(), bias.detach()

    def loss(self, parts: list[Part], weight: Tensor, bias: Tensor) -> Tensor:
        """The mean loss over the terms that the objective counts."""
        losses, counts = [], []
        for part in parts:
            counts.append(self.objective.weight(part.batch))
            logits = (part.inputs @ weight.T + bias).reshape(part.shape)
            losses.append(self.objective.loss(logits, part.batch) * counts[-1])
        return torch.stack(losses).sum() / max(1.0, sum(counts))


def _strength(fit: _Fit, parts: list[Part]) -> float:
    """Choose the strength of the penalty; a handful of batches leaves no choice."""
    held, kept = parts[::_HELD], [part for at, part in enumerate(parts) if at % _HELD]
    if not kept:
        return STRENGTHS[0]

    def held_out(strength: float) -> float:
        with torch.no_grad():
            return float(fit.loss(held, *fit(kept, strength)))

    return min(STRENGTHS, key=held_out)
