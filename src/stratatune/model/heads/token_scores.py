"""How likely given tokens are under an LM head, without the logits of the whole vocabulary for all of them at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stratatune.methods.precision import at_least_fp32

_AT_ONCE = 2**25
"""The number of logits computed together: 128 MB in fp32, of which a batch over 262,144 words has gigabytes."""


def scores_of(logits: Tensor, targets: Tensor) -> Tensor:
    """The log-probability of each target, and 1 where it is the likeliest token, else 0.

    Args:
        logits: [n, V].
        targets: [n].

    Returns:
        [n, 2], in fp32 at least.
    """
    # Without a gradient the fp32 copy of the logits and their softmax need not exist as a whole.
    rows = max(1, len(logits) if torch.is_grad_enabled() else _AT_ONCE // logits.shape[1])
    found = []
    for part, own in zip(logits.split(rows), targets[:, None].split(rows), strict=True):
        likely = part.to(at_least_fp32(part.dtype)).log_softmax(dim=1).gather(1, own)
        found.append(torch.cat([likely, part.argmax(dim=1, keepdim=True) == own], dim=1))
    return torch.cat(found)


def token_scores(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, cap: float | None = None
) -> Tensor:
    """:func:`scores_of` for the logits ``hidden weight^T + bias`` of a frozen output matrix, a piece of them at a time.

    The backward pass keeps [n, D] in place of the logits: the gradient of each log-probability for its own hidden
    state, computed along with it. So no logit is computed twice.

    Args:
        hidden: [n, D].
        weight: [V, D], which must not require a gradient.
        bias: [V], likewise.
        targets: [n].
        cap: the soft cap of the logits (Gemma 2).
    """
    kind, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    with torch.autocast(kind, enabled=False):
        bias = None if bias is None else bias.to(dtype)
        scored = _Scored.apply(hidden.to(dtype), weight.to(dtype), bias, targets, cap, torch.is_grad_enabled())
    return scored[0]  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]


class _Scored(torch.autograd.Function):
    """The scores [n, 2], and the gradients of the log-probabilities for ``hidden`` [n, D], or [n, 0] if not wanted."""

    @staticmethod
    def forward(
        hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, cap: float | None, learns: bool
    ) -> tuple[Tensor, Tensor]:
        size = max(1, min(_AT_ONCE // len(weight), len(hidden)))
        # The same memory for every piece: to get it anew from the system can take as long as a product.
        product = hidden.new_empty(size, len(weight))
        wide = product.to(at_least_fp32(product.dtype))
        slope = torch.empty_like(wide) if learns and cap is not None else None
        scores = wide.new_empty(len(hidden), 2)
        gradients = torch.empty_like(hidden) if learns else hidden.new_empty(len(hidden), 0)
        for start in range(0, len(hidden), size):
            part = slice(start, min(start + size, len(hidden)))
            own, low, high = targets[part, None], product[: part.stop - start], wide[: part.stop - start]
            torch.mm(hidden[part], weight.T, out=low)
            if bias is not None:
                low += bias
            high.copy_(low)
            if cap is not None:
                high.div_(cap).tanh_()
                if slope is not None:  # that of the cap: 1 - tanh^2
                    slope[: len(high)].copy_(high).square_().neg_().add_(1)
                high.mul_(cap)
            top, likeliest = high.max(dim=1, keepdim=True)
            right = high.gather(1, own)
            total = high.sub_(top).exp_().sum(dim=1, keepdim=True)
            scores[part] = torch.cat([right - top - total.log(), likeliest == own], dim=1)
            if learns:
                high.div_(total).neg_().scatter_add_(1, own, torch.ones_like(right))  # one-hot - softmax
                if slope is not None:
                    high.mul_(slope[: len(high)])
                torch.mm(low.copy_(high), weight, out=gradients[part])
        return scores, gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradients,) = ctx.saved_tensors
        return (grad[:, :1] * gradients).to(gradients.dtype), None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        """Trials at once: their rows depend on each other no more than those of one."""
        hidden, weight, bias, targets, cap, learns = args
        assert in_dims[0] is not None and in_dims[1:] == (None,) * len(args[1:])
        rows = hidden.movedim(in_dims[0], 0).flatten(0, 1)
        found: Any = _Scored.apply(rows, weight, bias, targets.repeat(info.batch_size), cap, learns)
        return tuple(one.unflatten(0, (info.batch_size, len(targets))) for one in found), (0, 0)
