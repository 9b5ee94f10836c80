"""Errors for a run whose numbers became NaN or infinite, with the most likely cause."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from stratatune.errors import NotFiniteError
from stratatune.model.finite import OTHERWISE, damage, first_not_finite
from stratatune.training.session import Ask, Learnt, Session

if TYPE_CHECKING:
    from stratatune.training.checkpoint import Progress

_SHOWN = 5


def several_stopped(errors: Sequence[tuple[str, NotFiniteError]], total: int, what: str, others: str) -> NotFiniteError:
    """The error for runs side by side of which some stopped.

    Args:
        errors: the folder of each that stopped, and its error.
        total: how many there were.
        what: what they are, in the plural.
        others: what became of those that did not stop.
    """
    said = "; ".join(f"{out}: {error.message}" for out, error in errors)
    hints = [*dict.fromkeys(error.hint for _, error in errors), *([others] if len(errors) < total else [])]
    return NotFiniteError(f"{len(errors)} of {total} {what} stopped: {said}", "; ".join(hints))


def not_finite(ask: Ask, done: Learnt, progress: Progress, batches: int) -> NotFiniteError:
    """The error for a batch whose loss or gradient is NaN or infinite, before a step by it was made."""
    what = f"the loss is {done.loss}" if not math.isfinite(done.loss) else f"the gradient's norm is {done.norm}"
    shown = ", ".join(str(number + 1) for number in ask.index[:_SHOWN]) + (", ..." if len(ask.index) > _SHOWN else "")
    epoch, number = ask.position
    place = f"epoch {epoch + 1}, step {progress.step + 1}, batch {number + 1} of {batches} (examples {shown})"
    return NotFiniteError(f"{what} in {place}", _hint(ask.session, ask.index), _kept(progress))


def outputs_not_finite(
    session: Session, progress: Progress, error: NotFiniteError, epochs: float = 0
) -> NotFiniteError:
    """The error for an evaluation after so many ``epochs``, with the place in the run at which it was made."""
    place = f"in the evaluation after epoch {epochs}, step {progress.step}"
    return NotFiniteError(f"{error.message}, {place}", _hint(session), _kept(progress))


def _kept(progress: Progress) -> str:
    if progress.best_epoch:
        return f"epoch {progress.best_epoch}"
    return f"step {progress.step}" if progress.step else ""


def _hint(session: Session, index: np.ndarray | None = None) -> str:
    return "likely: " + "; or ".join(_causes(session, index))


@torch.no_grad()
def _causes(session: Session, index: np.ndarray | None) -> Iterator[str]:
    """Likely causes of a NaN or infinite number: one that is found, else the usual ones."""
    attached = session.top.attached
    trained = {id(parameter) for parameter in attached.trained().values()}
    frozen = ((n, p) for n, p in attached.backbone.model.named_parameters() if id(p) not in trained)
    # The certain causes first: a damaged base spoils everything above it.
    if said := damage(frozen):
        yield said
        return
    if name := first_not_finite(attached.trained().items()):
        yield f"what trains has left the range of its numbers ({name}): {_smaller(session)}"
        return
    if index is not None and (cause := _of_batch(session, index)):
        yield cause
        return
    yield _smaller(session)
    if session.forward.autocast is not None:
        yield "the values are beyond what bf16 computes well: try --precision fp32"


def _of_batch(session: Session, index: np.ndarray) -> str:
    """A fault of the batch itself; empty where there is none."""
    batch = session.forward.batch(session.train, index)
    if not all(targets.isfinite().all() for targets in batch.targets.values()):
        return "a label of the batch is NaN or infinite"
    frozen = not session.top.attached.resolved.trains_embeddings
    if frozen and not session.feed.hidden(batch).isfinite().all():
        # Of a trunk that was read from a cache the weights are no longer in memory.
        again = session.reload() if session.top.attached.offloaded is not None and session.reload is not None else None
        return (again is not None and damage(again.named_parameters())) or OTHERWISE
    return ""


def _smaller(session: Session) -> str:
    """The settings that make steps large."""
    config = session.config
    groups = session.top.attached.groups
    rate = max([config.lr if group.lr is None else group.lr for group in groups], default=config.lr)
    said = [f"a smaller lr than {rate:g}{'' if rate == config.lr else ', which the plan sets'}"]
    # A step multiplies each matrix by 1 - lr * weight_decay: from 2 on the product turns it over, and it grows.
    said += [f"a smaller weight_decay than {config.weight_decay:g}"] if rate * config.weight_decay > 1 else []
    said += [] if config.clip else ["clip: 1.0 (it is off)"]
    said += [] if config.warmup else ["some warmup (there is none)"]
    return f"the steps are too large: try {', '.join(said)}"
