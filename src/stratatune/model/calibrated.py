"""A temperature in the output layer, for tools that know nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from stratatune.model.heads.sequence import Sequence

if TYPE_CHECKING:
    from stratatune.model.attached import Attached


def fold_temperature(attached: Attached) -> None:
    """Divide the outputs of a classifier by their temperature, so that softmax gives the run's own probabilities.

    Each of several heads has its own. For ordered classes, whose outputs are not logits of a softmax, it stays beside
    the model.
    """
    head, said = attached.backbone.head, attached.spec
    if not isinstance(head, Sequence):
        return
    parameters = list(attached.backbone.body.part(attached.backbone.row.classifier).parameters())
    for one, rows in _parts(said):
        if not one.get("ordinal"):
            temperature = float(one.pop("temperature", None) or 1.0)
            with torch.no_grad():
                for parameter in parameters:  # [C, D] and [C]
                    parameter[rows] /= temperature


def _parts(said: dict[str, Any]) -> Iterator[tuple[dict[str, Any], slice]]:
    """The notice about each head, and its outputs."""
    heads, start = said.get("heads"), 0
    if not heads:
        yield said, slice(None)
    for one in heads or ():
        end = start + max(1, len(one.get("labels") or ()) - bool(one.get("ordinal")))
        yield one, slice(start, end)
        start = end
