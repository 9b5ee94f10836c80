"""Fold a classifier's temperature into its output layer, for tools that do not know it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stratatune.exits.units import output_layer

if TYPE_CHECKING:
    from stratatune.model.attached import Attached

KEY = "temperature"


def fold_temperature(attached: Attached) -> None:
    """Divide the outputs of a classifier by their temperature, so that softmax gives the run's own probabilities.

    Each of several heads has its own temperature. That of ordered classes, whose outputs are not the logits of a
    softmax, stays in ``attached.spec``, and so does that of a head without its own output layer.
    """
    import torch

    from stratatune.model.heads.sequence import Sequence

    spec = copy.deepcopy(attached.spec)
    layer = output_layer(attached) if isinstance(attached.backbone.head, Sequence) else None
    if layer is None:
        return
    with torch.no_grad():
        for head, rows in _heads(spec):
            if not head.get("ordinal") and (temperature := head.pop(KEY, None)):
                layer.weight[rows] /= temperature
                if layer.bias is not None:
                    layer.bias[rows] /= temperature
    attached.spec = spec


def _heads(spec: dict[str, Any]) -> Iterator[tuple[dict[str, Any], slice]]:
    """The settings of each head, and its rows of the output layer."""
    heads, start = spec.get("heads"), 0
    if not heads:
        yield spec, slice(None)
    for head in heads or ():
        end = start + max(1, len(head.get("labels") or ()) - bool(head.get("ordinal")))
        yield head, slice(start, end)
        start = end
