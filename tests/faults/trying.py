"""Tries malformed inputs of one kind and gathers what is wrong with the answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from faults.asking import ask
from faults.malformed import KINDS, Bench


@dataclass
class Tally:
    """What came of the inputs of one kind; ``faults`` says of each bad answer what was given and what came back."""

    kind: str
    tried: int = 0
    refused: int = 0
    slow: int = 0
    slowest: float = 0.0
    faults: list[tuple[str, ...]] = field(default_factory=list)

    def rows(self) -> Iterator[str]:
        """The faults, a line each."""
        for one in self.faults:
            yield f"{self.kind}: {' | '.join(one)}"


def try_kind(kind: str, bench: Bench, count: int, chance: int = 0) -> Tally:
    """``count`` inputs of a kind, drawn with the seed ``chance``."""
    tally = Tally(kind)
    make = KINDS[kind]

    @seed(chance)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(draw: Any) -> None:
        what, arguments = make(draw, bench)
        answer = ask(*arguments)
        tally.tried += 1
        tally.refused += answer.code != 0
        tally.slowest = max(tally.slowest, answer.seconds)
        tally.slow += answer.slow
        if answer.faults:
            tally.faults.append((*answer.faults, what[:400], answer.err[-400:]))

    # A file that has lost its `out` makes a run in the default folder, which is below the current one.
    before = Path.cwd()
    os.chdir(bench.work)
    try:
        one()
    finally:
        os.chdir(before)
    return tally
