"""What is in memory of a model that is larger than it, counted: a block at a time below, the top above."""

from __future__ import annotations

import pytest
from benchmarks.checkpoints import write_checkpoint
from benchmarks.counters import resident_bytes
from benchmarks.streamed import settings, write_texts

from stratatune.model.body import Body
from stratatune.model.waves import bytes_of
from stratatune.progress import Reporter
from stratatune.training.build import build_cache
from stratatune.training.run import train

QUIET = Reporter(quiet=True)


@pytest.fixture
def place(tmp_path):
    write_checkpoint("tiny", tmp_path / "model", shard_bytes=200_000)
    write_texts(tmp_path, 1024)
    return tmp_path


@pytest.fixture
def seen(monkeypatch):
    """Bytes of the model in memory, by the block that was running."""
    found, whole = {}, Body.run_block

    def note(body, number):
        held = resident_bytes(*(one for one in body.model.parameters() if not one.is_meta))
        found[number] = max(found.get(number, 0), held)
        found["block"] = bytes_of(body.blocks[number])

    def counted(body, number, hidden, call):
        note(body, number)
        return whole(body, number, hidden, call)

    at = Body.run_block_at

    def counted_at(body, number, hidden, call, places):
        note(body, number)
        return at(body, number, hidden, call, places)

    monkeypatch.setattr(Body, "run_block", counted)
    monkeypatch.setattr(Body, "run_block_at", counted_at)
    return found


def test_the_build_holds_a_block_and_a_run_its_top(place, seen):
    size = sum(file.stat().st_size for file in (place / "model").glob("*.safetensors"))
    build_cache(settings(place, place / "model", 0), QUIET)
    block = seen.pop("block")
    assert set(seen) == set(range(7))
    assert max(seen.values()) < 1.2 * block
    seen.clear()
    done = train(settings(place, place / "model", 0), reporter=QUIET)
    assert done.cache_hit
    assert 4 * max(size for number, size in seen.items() if number != "block") < size
