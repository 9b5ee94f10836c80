"""Damage to any file of an artefact is refused or repaired, never believed; long: ``benchmarks/faults.py``."""

import pytest

from faults.damaging import artefacts, try_artefact

KINDS = {"adapter": 12, "run folder": 16, "grid": 8, "trunk cache": 6, "checkpoint": 4}


@pytest.fixture(scope="module")
def whole(bench):
    return artefacts(bench)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damage(kind, bench, whole):
    tally = try_artefact(kind, whole[kind], bench, KINDS[kind])
    assert tally.tried > KINDS[kind] // 2
    assert not tally.believed and not tally.lost and not tally.faults, tally
