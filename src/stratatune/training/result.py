"""The result of a run. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

RESULT = "result.json"


def found_trunk(cache_hit: bool, seconds: Mapping[str, float]) -> bool:
    """Whether a run found what its trunk gives in a cache, and the trunk did not run.

    Before the first step a cache is also complete where this run has just filled it: from a streamed trunk, by several
    processes, or for trials of several seeds.
    """
    return cache_hit and not seconds["cache"]


@dataclass(frozen=True)
class Result:
    """The result of a run; ``stratatune train --json`` prints it.

    Attributes:
        metric: the metric that selected the epoch; empty in results of 0.1.
        best: the selected epoch's metrics on the evaluation data (mean over its parts), empty without such data.
        epochs: epochs trained; a fraction where an evaluation within an epoch stopped the run.
        best_epoch: the epoch that was selected, 1-based; likewise a fraction (0.25: a quarter into the first epoch).
        seconds: time by kind: ``cache`` (running the trunk), ``train`` (the top), ``eval``.
        elapsed: seconds of ``cache`` and ``train`` until each line of ``metrics.jsonl``.
        tokens_per_second: real tokens trained on, over ``cache`` and ``train`` seconds.
        cache_hit: the trunk cache of the training data was complete before the first step, found so or filled by the
            run (:func:`found_trunk`).
        by_class: precision, recall and F1 of each class and the confusion matrix, of ``evaluation`` and ``test`` data,
            as :meth:`Objective.by_class` gives them; empty where labels are not classes.
        rows: the number of rows of the ``evaluation`` and ``test`` data, where there are such data.
        cached_depth: how many of the blocks below the frozen depth run once for each example: all of them, but for an
            encoder-decoder's decoder; None in results of 0.1.
        processes: how many trained together; times and memory are those of the first.
    """

    out: str
    plan: str
    objective: str
    frozen_depth: int
    backprop_blocks: int
    trainable: int
    total: int
    best: dict[str, float]
    best_epoch: int | float
    test: dict[str, float]
    epochs: int | float
    seconds: dict[str, float]
    tokens_per_second: float
    peak_memory_bytes: int
    cache_hit: bool
    processes: int = 1
    metric: str = ""
    cached_depth: int | None = None
    elapsed: list[float] = field(default_factory=list, repr=False)
    labels: list[str] = field(default_factory=list, repr=False)
    by_class: dict[str, Any] = field(default_factory=dict, repr=False)
    rows: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The result as plain data."""
        return asdict(self)
