"""Damage to any file of an artefact is refused or repaired, never believed; long: ``benchmarks/faults.py``."""

import pytest

from faults.benching import make_bench
from faults.damaging import artefacts, try_artefact

KINDS = {"adapter": 12, "run folder": 16, "grid": 8, "trunk cache": 6, "checkpoint": 4}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRATATUNE_CACHE", str(tmp_path_factory.mktemp("caches")))
        yield make_bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damage(kind, bench):
    tally = try_artefact(kind, artefacts(bench)[kind], bench, KINDS[kind])
    assert tally.tried > KINDS[kind] // 2
    assert not tally.believed and not tally.lost and not tally.faults, tally
