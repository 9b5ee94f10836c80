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
from stratatune.progress import is_main
from stratatune.training import distributed
from stratatune.training.machine import now

if TYPE_CHECKING:
    from stratatune.data.batching import Batch
    from stratatune.objectives.objective import Objective
    from stratatune.training.session import Session

HEADS = frozenset({"sequence", "token"})
"""Heads with an output layer that no pretrained model brings."""
SAMPLE, PLACES = 1000, 10_000
"""The most examples that are read, and the number of places after which reading ends."""
STRENGTHS = (1.0, 0.1, 0.01)
"""Strengths of the penalty; the one with the smallest loss on a fifth of the batches is taken."""
TIMES = 3.0
"""The most that fitted weights may exceed drawn ones, as a factor."""
_HELD, _ITERATIONS, _SMALL, _LARGEST = 5, 200, 1e-6, 10**9
_ROUGH = 1e-4
"""The largest gradient at which a fit ends that only chooses a strength."""
_WIDEST = 2048
"""Directions of the inputs that are separated; an eigendecomposition of more takes longer than it saves."""


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
    have put there. Of several processes the first fits, on all ranks' examples, and the others take its layer: the
    caches hold every rank's, and the numbers are those of one process.

    Returns:
        The seconds that it took, without the trunk's.

    Raises:
        ConfigError: the objective has no new output layer.
    """
    started, in_trunk = now(session.device), session.feed.clock.trunk_seconds
    layer = _output_layer(session)
    if is_main():
        _fit(session, layer)
    distributed.take_from_first(layer.parameters())
    return now(session.device) - started - (session.feed.clock.trunk_seconds - in_trunk)


def _fit(session: Session, layer: nn.Linear) -> None:
    with torch.no_grad(), session.forward.evaluating():
        parts = list(_parts(session, layer))
    every = torch.cat([part.inputs for part in parts])
    # NaN in the base has nothing to be fitted to; the first step names the weight that holds it.
    if every.numel() * layer.out_features > _LARGEST or not torch.isfinite(every).all():
        return
    # Without a bias nothing can take up the mean.
    mean = every.mean(0) if layer.bias is not None else torch.zeros_like(every[0])
    # One number for all inputs: by its own, one that hardly varies would get a weight that outgrows all others.
    spread = every.var(0, correction=0).mean().sqrt() + _SMALL
    parts = [Part(part.batch, (part.inputs - mean) / spread, part.shape) for part in parts]
    fit = _Fit(session.objective, layer, parts)
    weight, bias = _fitted(fit, parts)
    weight = weight / spread
    norm = weight.norm()
    if torch.isfinite(norm) and norm > _SMALL:  # else there is nothing to be read, and the layer stays as it was drawn
        weight = weight * (TIMES * layer.weight.detach().norm() / norm).clamp(max=1.0)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if layer.bias is not None:
                layer.bias.copy_(bias - weight @ mean)


def _output_layer(session: Session) -> nn.Linear:
    """The layer to fit, where there is one."""
    layer = session.top.attached.backbone.output_linear()
    if layer is None:
        raise ConfigError(
            [f"head_start: {session.objective.name} has no new output layer that could be fitted"],
            "legal here: head_start: drawn",
        )
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
        read = places = 0
        for index in session.planned_batches(0):
            batch = session.forward.batch(session.train, index)
            # At once: pieces would come in another order.
            logits = session.forward.at_once(session.feed.hidden(batch), batch, training=False)
            yield Part(batch, inputs := seen.pop(), logits.shape)
            read, places = read + len(index), places + len(inputs)
            if read >= SAMPLE or places >= PLACES:
                return
    finally:
        handle.remove()


@dataclass(frozen=True)
class _Sample:
    """Batches with the shapes of their logits, the ``inputs`` [n, R] of all, and how many places each batch has."""

    parts: list[tuple[Batch, torch.Size]]
    inputs: Tensor
    places: list[int]


class _Fit:
    """Finds the weight [C, D] and bias [C] with the smallest loss on some parts, by L-BFGS.

    The inputs of an output layer are far from independent and rare classes have small gradients, so that L-BFGS over
    the plain weights takes hundreds of steps. It searches in the eigenvectors of the inputs' second moments, and scales
    each direction of each output by the root of about the curvature there. The minimum is the same.

    Args:
        objective: the objective of the run.
        layer: the output layer.
        parts: all of the sample, with centred inputs.
    """

    def __init__(self, objective: Objective, layer: nn.Linear, parts: list[Part]) -> None:
        self.objective, self.outputs, self.biased = objective, layer.out_features, layer.bias is not None
        self.moments, self.directions = _moments(torch.cat([part.inputs for part in parts]))  # [R], [D, R]
        self.curvature = self._curvature(parts)  # [C]

    def sample(self, parts: list[Part]) -> _Sample:
        """Some of the parts, with inputs in the directions of the search."""
        inputs = torch.cat([part.inputs for part in parts]) @ self.directions
        return _Sample([(part.batch, part.shape) for part in parts], inputs, [len(part.inputs) for part in parts])

    def _curvature(self, parts: list[Part]) -> Tensor:
        """About the second derivative of the loss by each logit: the mean square of the first, where logits are 0."""
        total, places = parts[0].inputs.new_full((self.outputs,), _SMALL), 0
        for part in parts:
            logits = part.inputs.new_zeros(part.shape).requires_grad_()
            with torch.enable_grad():
                loss = self.objective.loss(logits, part.batch) * self.objective.weight(part.batch)
            (slope,) = torch.autograd.grad(loss, logits)
            total += slope.reshape(-1, self.outputs).square().sum(0)
            places += len(part.inputs)
        return total / places

    def __call__(
        self, sample: _Sample, strength: float, start: tuple[Tensor, Tensor] | None = None, tolerance: float = 1e-6
    ) -> tuple[Tensor, Tensor]:
        """Return the minimum over ``sample``, sought from ``start`` or from zero: weight [C, R] and bias [C]."""
        scale = (self.curvature[:, None] * self.moments + strength).sqrt()
        width = self.curvature.sqrt()
        first = start or (torch.zeros_like(scale), torch.zeros_like(width))
        inner = (first[0] * scale).requires_grad_()
        offset = (first[1] * width).requires_grad_(self.biased)
        given = [inner, offset] if self.biased else [inner]
        # A search that stops half way depends on the last bits of its inputs, so the one that counts goes to the end.
        optimiser = torch.optim.LBFGS(
            given,
            max_iter=_ITERATIONS,
            tolerance_grad=tolerance,
            tolerance_change=1e-6 * tolerance,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            weight = inner / scale
            found = self.loss(sample, weight, offset / width) + strength / 2 * weight.square().sum()
            found.backward()
            return found

        with torch.enable_grad():
            optimiser.step(closure)
        return (inner / scale).detach(), (offset / width).detach()

    def loss(self, sample: _Sample, weight: Tensor, bias: Tensor) -> Tensor:
        """The mean loss over the terms that the objective counts."""
        losses, counts = [], []
        pieces = torch.addmm(bias, sample.inputs, weight.T).split(sample.places)
        for (batch, shape), logits in zip(sample.parts, pieces, strict=True):
            counts.append(self.objective.weight(batch))
            losses.append(self.objective.loss(logits.reshape(shape), batch) * counts[-1])
        return torch.stack(losses).sum() / distributed.divisor(sum(counts))


def _moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues [R] and eigenvectors [D, R] of the second moments of ``inputs`` [n, D], R = min(n, D).

    Directions in which no input differs from 0 get no weight in the minimum, so they may be missing. For wide
    inputs the directions are the axes, R = D.
    """
    places, width = inputs.shape
    if min(places, width) > _WIDEST:
        return inputs.square().mean(0), torch.eye(width, dtype=inputs.dtype, device=inputs.device)
    if width <= places:
        moments, directions = torch.linalg.eigh(inputs.T @ inputs / places)
        return moments.clamp(min=0), directions
    moments, mixed = torch.linalg.eigh(inputs @ inputs.T / places)
    kept = moments > _SMALL * moments[-1].clamp(min=_SMALL)
    return moments[kept], inputs.T @ mixed[:, kept] / (places * moments[kept]).sqrt()


def _fitted(fit: _Fit, parts: list[Part]) -> tuple[Tensor, Tensor]:
    """The fit by the best strength of the penalty: weight [C, D] and bias [C].

    With a handful of batches there is nothing to choose the strength on.
    """
    strength, found = STRENGTHS[0], None
    if len(parts) > 1:
        held = fit.sample(parts[::_HELD])
        kept = fit.sample([part for at, part in enumerate(parts) if at % _HELD])
        tried: list[tuple[float, float, tuple[Tensor, Tensor]]] = []
        for strength in STRENGTHS:  # each from the minimum of the one before, which is near
            found = fit(kept, strength, found, tolerance=_ROUGH)
            with torch.no_grad():
                tried.append((float(fit.loss(held, *found)), strength, found))
        _, strength, found = min(tried, key=lambda one: one[0])
    weight, bias = fit(fit.sample(parts), strength, found)
    return weight @ fit.directions.T, bias
