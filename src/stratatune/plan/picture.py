"""A plan drawn on its model: a column of strata, the output at the top, the input at the bottom.

``column`` works out the content; ``terminal`` (here) and ``svg`` (in ``svg.py``) only draw it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from stratatune.plan.resolved import Resolved, Run
from stratatune.shapes.shape import LM_OBJECTIVES, POOLED

Kind = Literal["head", "trained", "inserted", "passes", "cached"]
_WIDTH, _LABEL, _BOX, _COUNT = 80, 10, 8, 13
_TEXT = _WIDTH - _LABEL - _BOX - _COUNT - 5
_NAME = 28
_ROWS = 12  # how tall the blocks are together, when their texts allow it
_FILL: dict[Kind, str] = {"head": "▓", "trained": "█", "inserted": "◆", "passes": "·", "cached": "░"}
_ANSI: dict[Kind, str] = {"head": "33", "trained": "32", "inserted": "35", "passes": "36", "cached": "2"}


@dataclass(frozen=True)
class Band:
    """One stratum of the picture."""

    kind: Kind
    label: str
    rows: tuple[tuple[str, int | None], ...]
    """The methods in this band, with the trained parameters of each."""
    blocks: int = 0
    below_frozen_depth: bool = False
    """Whether it is part of the trunk, which gradients do not reach."""


def column(resolved: Resolved, objective: str) -> list[Band]:
    """The cells from the output down to the input."""
    cells = [_embeddings(resolved), *_inserted(resolved, 0)]
    for run in resolved.runs():
        cells += [_run(resolved, run), *_inserted(resolved, run.stop)]
    return [_head(resolved, objective), *reversed(cells)]


def _inserted(resolved: Resolved, depth: int) -> list[Band]:
    """The insertions at a depth, in the order in which the hidden state meets them."""
    found = [one for at, one in resolved.insertions if at == depth]
    shape = resolved.shape
    labels = [f"dec at {depth - shape.border}" if one.in_decoder else f"depth {depth}" for one in found]
    return [
        Band("inserted", label, ((str(one), one.parameters(shape)),)) for label, one in zip(labels, found, strict=True)
    ]


def _head(resolved: Resolved, objective: str) -> Band:
    """The pretrained head's trained parts under this objective, and the task's own output layer."""
    head, trained = resolved.plan.head, resolved.head_trainable(objective)
    shape = resolved.shape
    normed = shape.final_norm and (head.final_norm or (shape.normed_by_final and "norm" in head.mlm))
    parts = ["final norm"] if normed else []
    if objective in LM_OBJECTIVES:
        name = "masked LM" if objective in ("mlm", "masked_lm") else "LM"
        parts += [part for part in head.mlm if not (normed and shape.normed_by_final and part == "norm")]
        text = f"{name}: {', '.join(parts)}" if parts else f"{name}, frozen"
    else:
        parts += ["pooler"] if head.pooler and shape.pooler and objective in POOLED else []
        parts += [] if objective == "none" else ["new output layer (not counted)"]
        text = ", ".join(parts) or "none: the objective reads the hidden states"
    return Band("head", "head", ((text, trained),))


def _run(resolved: Resolved, run: Run) -> Band:
    stack, border = resolved.place(run)
    first, last = run.start - border, run.stop - 1 - border
    label = stack + (f"{first}..{last}" if run.blocks > 1 else str(first))
    if run.methods:
        rows = tuple((str(one), resolved.trainable_of(one, run)) for one in run.methods)
        return Band("trained", label, rows, run.blocks)
    if border and run.stop <= resolved.frozen_depth:
        text = "frozen; runs in every step"
        return Band("passes", label, ((text, None),), run.blocks, below_frozen_depth=True)
    if run.stop <= resolved.frozen_depth:
        return Band("cached", label, (("frozen: runs once, cached", None),), run.blocks, below_frozen_depth=True)
    return Band("passes", label, (("frozen; the gradient passes through", None),), run.blocks)


def _embeddings(resolved: Resolved) -> Band:
    if resolved.plan.embeddings is not None:
        return Band("trained", "embeddings", ((str(resolved.plan.embeddings), resolved.shape.embeddings),))
    return Band("cached", "embeddings", (("frozen", None),), below_frozen_depth=True)


def headline(resolved: Resolved, objective: str, counts: tuple[int, int] | None = None) -> tuple[str, str]:
    """Two lines above the picture: the model and its plan's counts, and how far the gradient goes.

    Args:
        resolved: the plan on its model.
        objective: whose head is counted.
        counts: how many parameters train, and how many there are, of a model at hand: it may lack some of its
            checkpoint, which train too; by the plan alone when None.
    """
    blocks = resolved.shape.blocks
    trainable, total = counts or (resolved.trainable(objective), resolved.total(objective))
    share = f"{100 * trainable / total:.2f} %"
    model = resolved.shape.name or resolved.shape.model_type
    model = model if len(model) <= _NAME else f"...{model[-_NAME + 3 :]}"  # of a folder, the end of its path
    backward = f"backward through {resolved.backprop_blocks} of {blocks} blocks"
    if resolved.cut_to is not None:
        backward += f" ({resolved.whole.blocks - blocks} above are cut off)"
    return (
        f"{model}: {trainable:,} of {total:,} parameters train ({share})",
        f"{backward}, frozen depth {resolved.frozen_depth}",
    )


def terminal(resolved: Resolved, colour: bool, objective: str | None = None) -> str:
    """The picture for a terminal of 80 columns.

    Args:
        resolved: the plan on its model.
        colour: whether to use ANSI colours.
        objective: whose head is drawn; the plan's own when None.
    """
    objective = objective or resolved.plan.objective
    cells = column(resolved, objective)
    lines = [textwrap.shorten(line, _WIDTH) for line in headline(resolved, objective)]
    lines.append(_border("┌─┐"))
    # Each cell with the one above it, which decides the line between them.
    for above, cell in zip([None, *cells], cells, strict=False):
        if above is not None:
            lines.append(_boundary(above, cell))
        lines += _drawn(cell, resolved.shape.blocks, colour)
    return "\n".join((*lines, _border("└─┘")))


def _border(marks: str) -> str:
    return " " * (_LABEL + 1) + marks[0] + marks[1] * _BOX + marks[2]


def _boundary(above: Band, below: Band) -> str:
    """The line between two cells; doubled where the backward pass stops."""
    if below.below_frozen_depth and not above.below_frozen_depth:
        return _border("╞═╡") + " backward stops here"
    return _border("├─┤")


def _drawn(cell: Band, blocks: int, colour: bool) -> Iterator[str]:
    """The lines of one cell, as tall as its share of the blocks or as its text."""
    texts = [line for text, count in cell.rows for line in _wrapped(text, count)]
    # By share, not by count: a model of 80 blocks must fit a terminal.
    height = max(len(texts), round(cell.blocks * _ROWS / blocks))
    for number in range(height):
        label = cell.label if number == 0 else ""
        text = texts[number] if number < len(texts) else ""
        box = _painted(_FILL[cell.kind] * _BOX, cell.kind, colour)
        yield f"{label:>{_LABEL}} │{box}│ {_painted(text, cell.kind, colour)}".rstrip()


def _wrapped(text: str, count: int | None) -> Iterator[str]:
    """Wrap a text to the width, with its count at the right of the first line."""
    first, *rest = textwrap.wrap(text, _TEXT, subsequent_indent="  ") or [""]
    yield f"{first:<{_TEXT}} {count:>{_COUNT},}" if count else first
    yield from rest


def _painted(text: str, kind: Kind, colour: bool) -> str:
    return f"\x1b[{_ANSI[kind]}m{text}\x1b[0m" if colour and text else text
