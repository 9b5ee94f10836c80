"""The bench of the campaigns, made once: they damage copies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.benching import make_bench
from faults.malformed import Bench
from gridding import Inline


@pytest.fixture(scope="session")
def made_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRATATUNE_CACHE", str(tmp_path_factory.mktemp("caches")))
        patch.setattr("stratatune.studies.grid.engines.LocalEngine", Inline)
        return make_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def bench(made_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The bench, with the caches of what is asked in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRATATUNE_CACHE", str(tmp_path_factory.mktemp("caches")))
        yield made_bench
