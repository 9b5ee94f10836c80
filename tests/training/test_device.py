"""What a run asks of its device, with a GPU that is pretended: its memory, its peak, the kind of attention."""

from __future__ import annotations

import pytest
import torch

from stratatune.model.base import attention_for_training, load_base
from stratatune.model.device import device_kind
from stratatune.progress import Reporter
from stratatune.training import loop, machine
from stratatune.training import run as runs
from stratatune.training.checkpoint import FILE
from stratatune.training.prepare import Outline, read_tables, settle
from stratatune.training.run import train
from stratatune.training.trials.many import train_many

QUIET = Reporter(quiet=True)
CUDA = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU of 10 GB, of which 6 are free once torch has given back what it holds unused."""
    called = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: called.append("init"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("empty"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: called.append("reset"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (6e9 if "empty" in called else 1e9, 10e9))
    return called


def test_the_memory_of_the_device_that_computes(gpu):
    assert [machine.gpu_memory(device) for device in ("cpu", "mps", "cuda", "auto")] == [None, None, 6e9, 6e9]


@pytest.mark.parametrize("cuda", [True, False])
@pytest.mark.parametrize("mps", [True, False])
def test_the_kind_of_device_is_the_best_there_is_of_what_is_asked_for(cuda, mps, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    found = {device: device_kind(device) for device in ("auto", "cuda", "mps", "cpu")}
    own = {"cuda": "cuda" if cuda else "cpu", "mps": "mps" if mps else "cpu", "cpu": "cpu"}
    assert found == {"auto": "cuda" if cuda else own["mps"], **own}
    fast = [device for device in found if attention_for_training(device) is None]
    assert fast == [device for device, kind in found.items() if kind != "cpu"]


def test_without_a_gpu_there_is_none_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.gpu_memory("auto") is None


def test_the_peak_is_counted_anew(gpu):
    machine.count_peak_anew(torch.device("cpu"))
    assert gpu == []
    machine.count_peak_anew(CUDA)
    assert gpu == ["init", "reset"]


def test_each_run_counts_its_own_peak(settings, tmp_path, monkeypatch):
    """A device whose statistics are of the process: the second run must not inherit the first one's."""
    most = {"bytes": 7_000}

    def anew(device):
        most["bytes"] = 0

    monkeypatch.setattr(runs, "count_peak_anew", anew)
    monkeypatch.setattr(runs, "peak_memory", lambda device: most["bytes"])
    for name in ("one", "two"):
        assert train(settings(out=str(tmp_path / name)), reporter=QUIET).peak_memory_bytes == 0
        most["bytes"] = 7_000


def test_trials_that_share_a_model_share_its_peak(settings, tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(runs, "count_peak_anew", counted.append)
    base = settings().model_dump(mode="json")
    train_many([{**base, "seed": seed, "out": str(tmp_path / f"{seed}")} for seed in (0, 1)], reporter=QUIET)
    assert len(counted) == 1


@pytest.mark.parametrize("available", [False, True])
def test_attention_follows_the_device_of_the_run(settings, monkeypatch, available):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    kinds = [attention_for_training(device) for device in ("cpu", "auto", "cuda")]
    assert kinds == ["eager", *[None if available else "eager"] * 2]
    outline = Outline(settings(device="cpu"))
    prepared = settle(outline, read_tables(outline.config, {}, outline.kind))
    assert load_base(**prepared.base).model.config._attn_implementation == "eager"
    asked = Outline(settings(attention="sdpa"))
    assert settle(asked, read_tables(asked.config, {}, asked.kind)).base["attention"] == "sdpa"


def test_a_full_gpu_leaves_the_checkpoint_of_the_last_epoch(settings, tmp_path, monkeypatch):
    whole = train(settings(epochs=3, out=str(tmp_path / "whole")), reporter=QUIET)
    steps = []

    def full(*arguments):
        steps.append(1)
        if len(steps) == 8:  # in the second epoch, of six steps
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return plain(*arguments)

    plain = loop._step
    monkeypatch.setattr(loop, "_step", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        train(settings(epochs=3), reporter=QUIET)
    folder = tmp_path / "run"
    assert (folder / FILE).is_file() and not (folder / "result.json").exists()
    steps.append(1)
    again = train(settings(epochs=3, resume=True), reporter=QUIET)
    assert again.best == whole.best and len(steps) == 8 + 1 + 12, "the first epoch is not trained again"
