"""Malformed input of every kind is refused in a line, or read; the long campaign is ``benchmarks/faults.py``."""

import pytest

from faults.benching import make_bench
from faults.malformed import KINDS
from faults.trying import try_kind

COUNT = 25


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRATATUNE_CACHE", str(tmp_path_factory.mktemp("caches")))
        yield make_bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_malformed(kind, bench):
    tally = try_kind(kind, bench, COUNT)
    assert tally.tried >= COUNT // 2
    assert not tally.faults, "\n".join(tally.rows())
