"""The depths of a model as one family of plans reads them. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stratatune.studies.suggest.choosing import Found
from stratatune.studies.suggest.pricing import Candidate
from stratatune.studies.suggest.probing import Probe


@dataclass(frozen=True)
class View:
    """The depths of a model as one family reads them.

    Attributes:
        family: whose plans these are, such as ``full`` or ``bft``.
        objective: the objective under which the text was read; ``position``: where, in words.
        probed: the target of the probes, in words.
        metric: the metric that decides in training.
        value: whether the labels are numbers; ``classes``: how many there are, 1 for numbers.
        hidden: D.
        probes: the probes of every depth and reading.
        found: the result of the rule.
        candidates: the candidates by depth.
        beside: other plans, priced alike: ``mid``, and a cut where the objective reads no LM head.
        chosen: the one proposed; None when a budget leaves none.
        spent: seconds of ``pass``, ``probes`` and ``calibration``, and ``flops`` of the pass.
        feature_bytes: the memory that all depths of the sample took.
        experts: whether the model's blocks hold experts.
        base: a hash of the model's weights and settings, and of how its tokenizer reads texts.
    """

    family: str
    objective: str
    position: str
    probed: str
    metric: str
    value: bool
    classes: int
    hidden: int
    probes: tuple[Probe, ...]
    found: Found
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    spent: Mapping[str, float]
    feature_bytes: int
    base: str
    beside: tuple[Candidate, ...] = ()
    experts: bool = False
