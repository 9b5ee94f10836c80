"""The parts of a plan as the code that resolves and counts it sees them; ``schema.py`` has the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from stratatune.plan.methods import Full, Head, Insertion, MethodConfig


class StratumParts(Protocol):
    """A run of blocks and the methods on them: :class:`stratatune.plan.schema.Stratum`."""

    @property
    def stack(self) -> str: ...
    @property
    def layers(self) -> str: ...
    @property
    def methods(self) -> tuple[MethodConfig, ...]: ...


class PlanParts(Protocol):
    """A plan: :class:`stratatune.plan.schema.Plan`."""

    @property
    def strata(self) -> Sequence[StratumParts]: ...
    @property
    def insertions(self) -> tuple[Insertion, ...]: ...
    @property
    def embeddings(self) -> Full | None: ...
    @property
    def head(self) -> Head: ...
    @property
    def cut(self) -> int | str | None: ...
    @property
    def objective(self) -> str: ...
    def to_data(self) -> dict[str, Any]:
        """The plan as data for YAML or JSON."""
        ...
