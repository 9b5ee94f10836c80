"""Once everything is remembered, a run trains without the weights below its frozen depth, and no number changes."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.counters import resident_bytes
from torch._subclasses.fake_tensor import FakeTensor
from transformers import AutoModelForMaskedLM

import stratatune as st
from stratatune.model.saving import read_tensors
from stratatune.progress import Reporter
from stratatune.training import loop

PLAN = {"plan": "bft-adapter@3", "epochs": 3}


@pytest.fixture
def watched(monkeypatch):
    """Bytes of weights in memory at each evaluation of a run."""
    seen, plain = [], loop.evaluate

    def evaluate(forward, *arguments, **words):
        seen.append(resident_bytes(forward.top.model))
        return plain(forward, *arguments, **words)

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
    offloaded = run(**changes, out=str(tmp_path / "offloaded"))
    monkeypatch.setattr(loop, "offload_trunk", lambda *_: 0)
    kept = run(**changes, out=str(tmp_path / "kept"))
    one, other = (read_tensors(Path(result.out) / "adapter") for result in (offloaded, kept))
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert (offloaded.best, offloaded.total) == (kept.best, kept.total)


def test_test_data_bring_the_trunk_back(run, files, watched, tmp_path):
    result = run(**PLAN, test=str(files / "dev.csv"), cache=str(tmp_path / "cache"))
    assert watched[1] < watched[0] and result.test == result.best
    further = run(**PLAN, test=str(files / "dev.csv"), cache="off", out=str(tmp_path / "off"))
    assert further.test == result.test


def test_a_stopped_run_resumes_from_a_whole_cache(run, settings, tmp_path, monkeypatch):
    from stratatune.cache.feed import Feed

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


def bytes_alive():
    """Bytes of all tensors that anything in Python holds, each storage once."""
    # An export that ran before in this process may have left fake tensors, which hold no bytes and refuse to be asked.
    kinds = ((one, type(one)) for one in gc.get_objects())
    return resident_bytes(
        *(one for one, kind in kinds if issubclass(kind, torch.Tensor) and not issubclass(kind, FakeTensor))
    )


@pytest.mark.parametrize(("precision", "together"), [("fp32", "never"), ("bf16", "always")])
def test_trials_let_go_of_the_trunk_that_they_share(settings, small, tmp_path, monkeypatch, precision, together):
    """Once the last of them is done with it; a shallower trial's top keeps the blocks above its own depth."""
    config = settings(model=small, loss="words", epochs=3, precision=precision, cache=str(tmp_path / "cache"))
    kept = config.model_dump(exclude_unset=True, exclude={"plan", "lr", "out"})
    seen, plain = [], loop.evaluate
    gc.collect()
    before = bytes_alive()

    def evaluate(*arguments, **words):
        gc.collect()
        seen.append(bytes_alive() - before)
        return plain(*arguments, **words)

    def trials(name, **axes):
        seen.clear()
        out = str(tmp_path / name)
        return st.train_many(**kept, **axes, out=out, together=together, reporter=Reporter(quiet=True)), list(seen)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", evaluate)
        found, deep = trials("deep", plans=["7: bitfit"], rates=[0.001, 0.002])
        _, mixed = trials("mixed", plans=["7: bitfit", "5: bitfit"])
    base: Any = AutoModelForMaskedLM.from_pretrained(small).roberta
    blocks = base.encoder.layer.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    for sizes, below in ((deep, blocks[:7]), (mixed, blocks[:5])):
        trunk = resident_bytes(base.embeddings, *below)
        freed = sizes[0] - max(sizes[2:])  # the first epoch's scores are of a cache that is only then complete
        assert 0.8 * trunk < freed < 1.3 * trunk  # what else comes and goes are some hidden states
    monkeypatch.setattr(loop, "offload_trunk", lambda *_: 0)
    for one, other in zip(found, trials("kept", plans=["7: bitfit"], rates=[0.001, 0.002])[0], strict=True):
        mine, theirs = (read_tensors(Path(result.out) / "adapter") for result in (one, other))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
        assert (one.best, one.total) == (other.best, other.total)


def test_trials_fetch_the_trunk_for_test_data(settings, files, tmp_path):
    """Each by itself: what they once had in common is gone."""
    config = settings(epochs=2, test=str(files / "dev.csv"), plan="bft-adapter@3").model_dump(exclude_unset=True)
    shared = {key: value for key, value in config.items() if key not in ("lr", "out", "cache")}
    quiet, cache = Reporter(quiet=True), str(tmp_path / "cache")
    for result in st.train_many(**shared, rates=[0.001, 0.002], out=str(tmp_path), cache=cache, reporter=quiet):
        assert result.test == result.best
