"""Stopped anywhere, a run goes on to the same bits; a damaged or foreign checkpoint is refused in one line."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import forked
from stratatune.cache.feed import Feed
from stratatune.errors import ConfigError, ModelError, ResourceError
from stratatune.model import saving
from stratatune.model.saving import read_tensors
from stratatune.progress import Reporter
from stratatune.training import checkpoint, loop
from stratatune.training.config import load_config, to_yaml
from stratatune.training.forward import Forward
from stratatune.training.run import train

BATCHES = 6  # of an epoch: 48 rows, 8 a batch
DROPOUT = {"plan": "bft+ffd", "epochs": 3, "checkpoint_every": 2}


def outcome(folder):
    folder = Path(folder)
    return read_tensors(folder / "adapter"), (folder / "metrics.jsonl").read_text()


def assert_same(one, other):
    (tensors, log), (wanted, wanted_log) = outcome(one), outcome(other)
    assert tensors.keys() == wanted.keys() and all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    assert log == wanted_log


def progress_in(folder):
    with safe_open(folder / checkpoint.FILE, "pt") as file:
        return json.loads(file.metadata()["record"])["progress"]


class Stop(KeyboardInterrupt):
    """A user's Ctrl-C."""


@pytest.fixture
def stopped(settings, monkeypatch, tmp_path):
    """Gives ``stopped(batch, **changes)``: starts a run and stops it in front of that training batch of all epochs."""

    def start(batch, **changes):
        config, seen, plain = settings(**changes), [0], Feed.hidden

        def hidden(self, given):
            if given.labels is not None and len(given) == 8:  # evaluation takes larger batches
                if seen[0] == batch:
                    raise Stop
                seen[0] += 1
            return plain(self, given)

        with monkeypatch.context() as patch:
            patch.setattr(Feed, "hidden", hidden)
            with pytest.raises(Stop):
                train(config, reporter=Reporter(quiet=True))

    return start


@pytest.mark.parametrize(
    ("cache", "batch"),
    [*(("off", 3), ("off", 9)), *(("ram", 3), ("ram", 6), ("ram", 9)), *(("disk", 0), ("disk", 3), ("disk", 17))],
)
def test_interrupted_and_resumed_is_uninterrupted(cache, batch, run, stopped, tmp_path):
    def changes(name):
        return {**DROPOUT, "cache": str(tmp_path / f"cache-{name}") if cache == "disk" else cache}

    whole = run(**changes("whole"), out=str(tmp_path / "whole"))
    stopped(batch, **changes("cut"))
    again = run(**changes("cut"), resume=True)
    assert_same(again.out, whole.out)
    assert not (tmp_path / "run" / checkpoint.FILE).exists()


@pytest.mark.parametrize("family", ["roberta"])
@pytest.mark.parametrize("plan", ["full", "spafit-0-1-I", "head"])
def test_every_kind_of_plan_resumes(family, plan, run, stopped, tmp_path):
    changes = {"family": family, "plan": plan, "epochs": 3, "checkpoint_every": 4, "objective": "mlm"}
    whole = run(**changes, out=str(tmp_path / "whole"))
    stopped(10, **changes)
    assert_same(run(**changes, resume=True).out, whole.out)


@pytest.mark.parametrize("cache", ["off", "ram", "disk"])
def test_int8_resumes_with_the_same_scales(cache, run, stopped, tmp_path):
    def changes(name):
        place = str(tmp_path / f"cache-{name}") if cache == "disk" else cache
        return {**DROPOUT, "cache_dtype": "int8", "cache": place}

    whole = run(**changes("whole"), out=str(tmp_path / "whole"))
    stopped(9, **changes("cut"))
    assert_same(run(**changes("cut"), resume=True).out, whole.out)


def test_a_cosine_goes_on_where_it_was(run, stopped, tmp_path):
    changes = {"plan": "1: lora", "epochs": 2, "schedule": "cosine", "checkpoint_every": 2}
    whole = run(**changes, out=str(tmp_path / "whole"))
    stopped(9, **changes)
    assert_same(run(**changes, resume=True).out, whole.out)


def test_accumulation_and_early_stopping_resume(run, stopped, tmp_path):
    changes = {"plan": "bft", "epochs": 6, "accumulate": 4, "early_stopping": 3, "checkpoint_every": 1}
    whole = run(**changes, out=str(tmp_path / "whole"))
    stopped(15, **changes)
    again = run(**changes, resume=True)
    assert_same(again.out, whole.out)
    assert (again.epochs, again.best_epoch) == (whole.epochs, whole.best_epoch)


@pytest.mark.parametrize("checkpoint_every", [0, 1])
@pytest.mark.parametrize(
    ("accumulate", "batch"), [*((1, 1), (1, 2), (1, 4), (1, 8), (1, 11)), *((3, 2), (3, 3), (3, 5), (3, 7), (3, 10))]
)
def test_evaluations_within_an_epoch_resume(run, stopped, tmp_path, monkeypatch, accumulate, batch, checkpoint_every):
    """Stopped before, at and after an evaluation; none is made twice or lost."""
    changes = {**DROPOUT, "epochs": 2, "eval_every": 1 / 3, "accumulate": accumulate}
    changes |= {"checkpoint_every": checkpoint_every}
    whole = run(**changes, out=str(tmp_path / "whole"))
    stopped(batch, **changes)
    calls, plain = [], loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *given, **words: calls.append(1) or plain(*given, **words))
    held = progress_in(tmp_path / "run") if (tmp_path / "run" / checkpoint.FILE).exists() else None
    again = run(**changes, resume=True)
    assert_same(again.out, whole.out)
    assert (again.best_epoch, again.epochs, again.best) == (whole.best_epoch, whole.epochs, whole.best)
    log = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    left = len(log) - (len(held["history"]) if held else 0)
    # The scores of the best tensors are not in a checkpoint.
    assert len(calls) - left in ((0, 1) if held else (0,))
    assert held is None or held["step"] == (batch // accumulate if checkpoint_every else held["history"][-1]["step"])


KILLED = """
import json, os, signal, sys
from stratatune.model import saving
from stratatune.cache import feed
from stratatune.training.config import load_config, validate
from stratatune.progress import Reporter
from stratatune.training.run import train

def deadly(function, count, partly=None):
    left = [count]
    def call(*arguments, **words):
        left[0] -= 1
        if left[0] < 0:
            if partly:
                partly(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **words)
    return call

def die(settings, place, count):
    if place == "feed":
        feed.Feed.hidden = deadly(feed.Feed.hidden, count)
    elif place == "cache":
        feed.Feed.remember = deadly(feed.Feed.remember, count)
    else:
        saving.save_file = deadly(saving.save_file, count, lambda tensors, path: path.write_bytes(b"half of it"))
    train(validate(load_config(settings)), reporter=Reporter(quiet=True))

die(*json.loads(sys.argv[1]))
"""


def test_killed_and_resumed_is_uninterrupted(settings, run, tmp_path):
    """SIGKILL in the cache's build, in training, in saving a checkpoint (2) and in saving the adapter (12)."""
    points = [("cache", 3), ("feed", 11), ("save", 2), ("save", 12)]
    runs = []
    for place, count in points:
        out, path = tmp_path / f"{place}-{count}", tmp_path / f"{place}-{count}.yaml"
        runs.append({**DROPOUT, "cache": str(tmp_path / f"{out.name}-cache"), "out": str(out)})
        path.write_text(to_yaml(settings(**runs[-1])))
        killed = forked.start(["-c", KILLED, json.dumps([str(path), place, count])], tmp_path)
        said = killed.communicate()
        assert killed.returncode == -signal.SIGKILL, said
    whole = run(**DROPOUT, cache=str(tmp_path / "whole-cache"), out=str(tmp_path / "whole"))
    for changes in runs:
        assert not (Path(changes["out"]) / "result.json").exists()
        again = run(**changes, resume=True)
        assert_same(again.out, whole.out)
        assert not list(Path(again.out).rglob("*.part"))


def test_time_of_a_resumed_epoch_is_counted_as_its_tokens_are(run, stopped, monkeypatch):
    """By a clock that moves with each batch alone: 18 batches of three epochs, one of them begun twice."""
    clock, learn = [0.0], loop._learn

    def learnt(*given):
        found = learn(*given)
        clock[0] += 1000.0
        return found

    monkeypatch.setattr(loop, "_learn", learnt)
    monkeypatch.setattr(loop, "now", lambda device: clock[0])
    stopped(9, **DROPOUT)
    again = run(**DROPOUT, resume=True)
    assert sum(again.seconds[kind] for kind in ("cache", "train")) == pytest.approx(18_000, abs=500)
    assert again.elapsed == pytest.approx([6_000, 12_000, 18_000], abs=500)


def test_other_settings_are_refused_and_nothing_is_touched(run, stopped, tmp_path):
    stopped(8, **DROPOUT)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match="lr: was 0.003, is now 0.01") as error:
        run(**DROPOUT, lr=0.01, seed=4, resume=True)
    assert len(error.value.errors) == 2 and all("\n" not in line for line in error.value.errors)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("begun", "now", "most", "said"),
    [
        ((8, 1), (4, 2), 4, "each batch is computed in parts of 4 at most"),
        ((8, 3), (6, 4), 4, "in parts of 6 at most"),  # a batch of 8 makes two parts of 4
        ((8, 1), (1, 8), 1, "in parts of 1 at most"),
        ((8, 2), (16, 1), 8, "and keeps those"),
    ],
)
@pytest.mark.parametrize("batch", [3, 8])
def test_steps_of_as_many_rows_go_on_in_other_batches(
    begun, now, most, said, batch, run, stopped, settings, tiny_folder, tmp_path, monkeypatch, capsys
):
    """After memory ran out, say: within an epoch and after one, and again in yet other batches."""
    still = tiny_folder("bert", "mlm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    changes = {"model": str(still), "plan": "1: lora", "epochs": 3, "checkpoint_every": 1, "eval_every": 0.5}
    changes |= {"batch_size": begun[0], "accumulate": begun[1]}
    whole = run(**changes, out=str(tmp_path / "whole"))
    stopped(batch, **changes)
    sizes, plain = list[int](), Forward.loss

    def learnt(self, given, feed):
        sizes.append(len(given))
        return plain(self, given, feed)

    monkeypatch.setattr(Forward, "loss", learnt)
    changes |= {"batch_size": now[0], "accumulate": now[1], "resume": True}
    again = train(settings(**changes), reporter=Reporter())
    assert said in capsys.readouterr().err
    assert max(sizes) == most and sum(sizes) == 8 * (18 - batch // begun[1] * begun[1])
    (tensors, log), (wanted, wanted_log) = outcome(again.out), outcome(whole.out)
    for name in wanted:
        torch.testing.assert_close(tensors[name], wanted[name], atol=1e-5, rtol=1e-4)
    for line, other in zip(log.splitlines(), wanted_log.splitlines(), strict=True):
        assert json.loads(line) == pytest.approx(json.loads(other), abs=1e-4)
    kept = load_config(Path(again.out) / "config.yaml")
    assert (kept["batch_size"], kept["accumulate"]) == begun
    assert run(**changes) == again  # finished: there is nothing left to do


def test_steps_of_other_rows_are_refused_with_the_way_out(run, stopped, tmp_path):
    stopped(8, **DROPOUT)
    with pytest.raises(ConfigError, match="batch_size: was 8, is now 4") as error:
        run(**DROPOUT, batch_size=4, resume=True)
    assert "its steps of 8 rows may be computed in smaller batches (batch_size=4 accumulate=2)" in error.value.hint
    run(**DROPOUT, resume=True)
    with pytest.raises(ConfigError, match="accumulate: was 1, is now 3"):
        run(**DROPOUT, accumulate=3, resume=True)


@pytest.mark.parametrize("later", ["another", None])
def test_test_data_may_change_when_a_run_is_resumed(run, stopped, files, tmp_path, later):
    stopped(8, **DROPOUT, test=str(files / "dev.csv"))
    if later is not None:
        (tmp_path / "test.csv").write_text((files / "dev.csv").read_text())
        later = str(tmp_path / "test.csv")
    again = run(**DROPOUT, test=later, resume=True)
    assert bool(again.test) == bool(later)
    assert_same(again.out, run(**DROPOUT, out=str(tmp_path / "whole")).out)


def test_other_test_data_for_a_finished_run_are_refused(run, files, tmp_path):
    result = run(epochs=1, test=str(files / "dev.csv"))
    assert run(epochs=1, resume=True) == result
    with pytest.raises(ConfigError, match="test: was .*dev.csv.*, is now .*train.csv.* is finished"):
        run(epochs=1, test=str(files / "train.csv"), resume=True)


def test_a_stopped_run_is_not_overwritten(run, stopped):
    stopped(8, **DROPOUT)
    with pytest.raises(ConfigError, match="holds a run that was stopped"):
        run(**DROPOUT)


def test_a_finished_run_is_not_overwritten_and_resuming_it_does_nothing(run, tmp_path):
    result = run(epochs=1)
    with pytest.raises(ConfigError, match="holds a finished run"):
        run(epochs=1)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    again = run(epochs=1, resume=True)
    assert again == result and stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(ConfigError, match="epochs: was 1, is now 2"):
        run(epochs=2, resume=True)


@pytest.mark.parametrize("content", [b"", b"nonsense", "cut"])
def test_a_damaged_checkpoint_is_refused_in_one_line(content, run, stopped, tmp_path):
    stopped(8, **DROPOUT)
    path = tmp_path / "run" / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:-100] if content == "cut" else content)
    with pytest.raises(ModelError, match="cannot be read") as error:
        run(**DROPOUT, resume=True)
    assert "\n" not in error.value.message


def flipped(path, place):
    """One bit of the file turned over, ``place`` of the way through it."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("place", [0.0, 0.02, 0.06, 0.15, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_flipped_bit_of_a_checkpoint_is_refused(run, stopped, tmp_path, place):
    """In the header's length, its names and places, what it says of the run, and the tensors."""
    stopped(8, **DROPOUT)
    flipped(tmp_path / "run" / checkpoint.FILE, place)
    with pytest.raises((ModelError, ConfigError)) as error:
        run(**DROPOUT, resume=True)
    assert "\n" not in error.value.message


CHANGES = {
    "a class that sorts first": ("so so film,alpha,1\n", "classes: negative, positive when the run began, alpha, neg"),
    "a row more": ("so so film,positive,1\n", "training rows: 48 when the run began, 49 now"),
    "another text": (("great", "good"), "training texts: changed since the run began"),
    "another label": (("positive", "negative"), "training labels: changed since the run began"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_data_under_resume_are_named(run, stopped, files, tmp_path, change):
    text = (files / "train.csv").read_text()
    path, (what, said) = tmp_path / "train.csv", CHANGES[change]
    path.write_text(text)
    changes = {**DROPOUT, "train": str(path), "objective": "classification"}
    stopped(8, **changes)
    path.write_text(text + what if isinstance(what, str) else text.replace(*what, 1))
    with pytest.raises(ConfigError, match=said):
        run(**changes, resume=True)
    path.write_text(text)
    assert run(**changes, resume=True).epochs == 3


def test_other_evaluation_data_and_another_base_under_resume(run, stopped, files, tiny_folder, tmp_path):
    import shutil

    base, path = shutil.copytree(tiny_folder("bert", "mlm"), tmp_path / "base"), tmp_path / "dev.csv"
    path.write_text((files / "dev.csv").read_text())
    changes = {**DROPOUT, "model": str(base), "eval": str(path)}
    stopped(8, **changes)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    shutil.copytree(tiny_folder("bert", "mlm", seed=7), base, dirs_exist_ok=True)
    with pytest.raises(ConfigError) as error:
        run(**changes, resume=True)
    assert [line.split(":")[0] for line in error.value.errors] == [
        *("weights of the base model", "evaluation rows", "evaluation texts", "evaluation labels")
    ]


def test_a_full_disk_leaves_the_checkpoint_before_it(settings, run, tmp_path, monkeypatch):
    whole = run(**DROPOUT, out=str(tmp_path / "whole"))
    plain, left = saving.save_file, [3]

    def fills(tensors, path, **words):
        left[0] -= 1
        if left[0] < 0:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        plain(tensors, path, **words)

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_file", fills)
        with pytest.raises(ResourceError, match="No space left on device") as error:
            run(**DROPOUT)
    assert "\n" not in error.value.message and not list((tmp_path / "run").rglob("*.part"))
    assert_same(run(**DROPOUT, resume=True).out, whole.out)


def test_a_checkpoint_holds_no_pickle_and_its_own_progress(stopped, tmp_path):
    stopped(9, **DROPOUT)
    progress = progress_in(tmp_path / "run")
    assert (progress["epoch"], progress["batch"], progress["step"]) == (1, 2, 8)
