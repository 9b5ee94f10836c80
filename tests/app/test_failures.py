"""Every kind of failure becomes one line, a hint and an exit code."""

import errno
import os
import signal
import time

import pytest

from stratatune.app.failures import Interrupted, failure_of
from stratatune.app.verbs import listing
from stratatune.errors import CacheError, ConfigError, DataError, ResourceError


def out_of_memory():
    """torch's own class is known by its name, so that telling of it imports no torch."""
    return type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch.cuda"})(
        "CUDA out of memory. Tried to allocate\nmore"
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("bad\nfile"), 2, "bad file"),
        (CacheError("stale"), 1, "stale"),
        (ResourceError("full"), 1, "full"),
        (Interrupted("interrupted"), 130, "interrupted"),
        (MemoryError(), 1, "out of memory: MemoryError"),
        (out_of_memory(), 1, "out of memory: the GPU's memory is full"),
        (RuntimeError("CUDA error: out of memory\nmore"), 1, "out of memory: the GPU's memory is full"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), 1, "out of memory: the GPU's"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), 1, "out of memory: DefaultCPUAllocator"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "No space left on device: x"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "Permission denied: x"),
        (KeyError("head"), 1, "KeyError: 'head'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_one_line(error, code, line):
    failure = failure_of(error)
    assert failure.exit_code == code
    assert len(failure.lines) == 1
    assert failure.lines[0].startswith(line)
    assert "\n" not in failure.lines[0]


FULL = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.25 GiB of which 1.06 GiB is "
    "free. Process 7 has 78.18 GiB memory in use. Of the allocated memory 76.00 GiB is allocated by PyTorch. If "
    "reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
)


@pytest.mark.parametrize("verb", ["train", "eval", "predict", "suggest", "bench"])
def test_a_full_gpu_is_one_line_with_the_fix(say, monkeypatch, data, tiny_folder, tmp_path, verb):
    """Raised where the model computes."""
    pytest.importorskip("peft")
    import torch

    from stratatune.model.split import Top
    from stratatune.studies.bench.arms import BenchSetting
    from stratatune.studies.suggest import suggest

    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError(FULL)

    run, out, model = tmp_path / "run", ("--out", tmp_path / "new"), ("--model", tiny_folder("bert"))
    training = (*model, "--train", data, "--plan", "2: lora", "--epochs", 1)
    if verb in ("eval", "predict"):
        assert say("train", *training, "--out", run).code == 0
    for place, name in ((Top, "forward"), (suggest, "_setting"), (BenchSetting, "model")):
        monkeypatch.setattr(place, name, full)
    asked = {
        "train": (*training, *out),
        "eval": (run, "--data", data),
        "predict": (run, "--data", data),
        "suggest": (*model, "--train", data),
        "bench": (*model, "--plans", "2: lora", *out),
    }
    said = say(verb, *asked[verb])
    assert said.code == 1
    line, hint = said.err.strip().splitlines()[-2:]
    assert line == "error: out of memory: the GPU has 79.25 GiB, 1.06 GiB of it free, and 2.50 GiB were needed at once"
    assert hint.startswith("hint: ")
    for option in ("--batch-size", "--accumulate", "--trunk streamed", "--pack nf4"):
        assert option in hint


def test_config_errors_are_a_line_each():
    assert failure_of(ConfigError(["a: 1", "b: 2"])).lines == ("a: 1", "b: 2")


@pytest.mark.parametrize(("error", "code"), [(RuntimeError("odd"), 1), (KeyboardInterrupt(), 130), (MemoryError(), 1)])
def test_from_inside_a_verb(say, monkeypatch, error, code):
    def fail(*_):
        raise error

    monkeypatch.setitem(listing._LISTS, "presets", fail)
    said = say("list", "presets")
    assert said.code == code
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    debugged = say("list", "presets", "--debug")
    assert "Traceback" in debugged.err


def test_a_working_folder_that_was_removed(say, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    said = say("list", "presets")
    assert (said.code, said.error) == (2, "the working folder no longer exists")


def test_interrupted_training_says_resume(say, monkeypatch, data, tiny_folder, tmp_path):
    import stratatune.training.run as run

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train", stop)
    said = say("train", "--model", tiny_folder("bert"), "--train", data, "--out", tmp_path / "run")
    assert said.code == 130
    assert "--resume" in said.err


def test_sigterm_ends_training_with_a_line(say, monkeypatch, data, tiny_folder, tmp_path):
    import stratatune.training.run as run

    given_back = []

    def train(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            given_back.append(signal.getsignal(signal.SIGTERM))

    monkeypatch.setattr(run, "train", train)
    said = say("train", "--model", tiny_folder("bert"), "--train", data, "--out", tmp_path / "run")
    assert (said.code, said.error) == (143, "stopped by SIGTERM") and "--resume" in said.err
    assert given_back == [signal.SIG_DFL] and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_is_left_to_who_handles_it(say, monkeypatch):
    met = []
    before = signal.signal(signal.SIGTERM, lambda *_: met.append(True))
    try:
        monkeypatch.setitem(listing._LISTS, "presets", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or [])
        said = say("list", "presets")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert met == [True] and said.code == 0


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--learning-rate", "did you mean --lr?"),
        ("--per_device_train_batch_size", "did you mean --batch-size?"),
        ("--lora-r", "--plan '12: lora(rank=8"),
    ],
)
def test_options_of_other_tools_get_ours(say, option, hint):
    said = say("train", "--train", "t.csv", option, "1")
    assert said.code == 2 and f"error: No such option: {option}\nhint: " in said.err and hint in said.err
