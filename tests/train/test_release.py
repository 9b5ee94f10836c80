"""Once everything is remembered, a run trains without the weights below its frozen depth, and no number changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stratatune.model.saving import read_tensors
from stratatune.study.counters import resident_bytes
from stratatune.train import loop

PLAN = {"plan": "bft-adapter@3", "epochs": 3}


@pytest.fixture
def watched(monkeypatch):
    """Bytes of weights in memory at each evaluation of a run."""
    seen, plain = [], loop.evaluate

    def evaluate(top, *arguments, **words):
        seen.append(resident_bytes(top.model))
        return plain(top, *arguments, **words)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    return seen


@pytest.fixture
def small(tiny_folder):
    """A model whose weights lie mostly below the depth, as a real one's do."""
    return str(tiny_folder("roberta", "mlm", blocks=8, hidden=32, ffn=128))


def test_weights_in_memory_while_training(run, watched, small, tmp_path):
    """P6: at most a quarter of what a run over the whole model holds, where the loss asks for label words alone."""
    changes = {"model": small, "plan": "bft-adapter@7", "epochs": 3, "loss": "words"}
    run(**changes, cache="off", out=str(tmp_path / "off"))
    whole = watched[0]
    assert set(watched) == {whole}
    watched.clear()
    cache = str(tmp_path / "cache")
    first = run(**changes, cache=cache, out=str(tmp_path / "first"))
    assert watched[0] == whole and max(watched[1:]) < whole / 4
    watched.clear()
    again = run(**changes, cache=cache, out=str(tmp_path / "again"))
    assert again.cache_hit and max(watched) < whole / 4
    assert first.total == again.total == run(**changes, cache="off", out=str(tmp_path / "count")).total


@pytest.mark.parametrize("loss", ["vocab", "words"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_number_changes(run, monkeypatch, loss, precision, tmp_path):
    changes = {**PLAN, "loss": loss, "precision": precision, "label_words": {"positive": "great", "negative": "bad"}}
    released = run(**changes, out=str(tmp_path / "released"))
    monkeypatch.setattr(loop, "release_trunk", lambda *_: 0)
    kept = run(**changes, out=str(tmp_path / "kept"))
    one, other = (read_tensors(Path(result.out) / "adapter") for result in (released, kept))
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert (released.best, released.total) == (kept.best, kept.total)


def test_test_data_bring_the_trunk_back(run, files, watched, tmp_path):
    result = run(**PLAN, test=str(files / "dev.csv"), cache=str(tmp_path / "cache"))
    assert watched[1] < watched[0] and result.test == result.best
    further = run(**PLAN, test=str(files / "dev.csv"), cache="off", out=str(tmp_path / "off"))
    assert further.test == result.test


def test_a_stopped_run_resumes_from_a_whole_cache(run, settings, tmp_path, monkeypatch):
    from stratatune.train.feed import Feed

    changes, seen, plain = {**PLAN, "cache": str(tmp_path / "cache"), "checkpoint_every": 2}, [0], Feed.hidden
    whole = run(**changes, out=str(tmp_path / "whole"))

    def hidden(self, *given):
        seen[0] += 1
        if seen[0] == 15:
            raise KeyboardInterrupt
        return plain(self, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Feed, "hidden", hidden)
        run(**changes)
    again = run(**changes, resume=True)
    one, other = (read_tensors(Path(result.out) / "adapter") for result in (again, whole))
    assert all(torch.equal(one[name], other[name]) for name in other)
