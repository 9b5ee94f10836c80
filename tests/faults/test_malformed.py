"""Malformed input of every kind is refused in a line, or read; the long campaign is ``benchmarks/faults.py``."""

import pytest

from faults.malformed import KINDS
from faults.trying import try_kind

COUNT = 25


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_malformed(kind, bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tally = try_kind(kind, bench, COUNT)
    assert not list(tmp_path.iterdir())  # a run whose file lost its `out` is in the bench's own folder
    assert tally.tried >= COUNT // 2
    assert not tally.faults, "\n".join(tally.rows())
