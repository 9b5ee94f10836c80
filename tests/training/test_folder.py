"""A run folder is one process's; a run that was killed is not taken for a running one; RANK alone silences nobody."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

import forked
from stratatune.errors import ConfigError, DataError
from stratatune.locks import hold, is_held
from stratatune.progress import is_main
from stratatune.studies.grid.records import read_records
from stratatune.training import distributed
from stratatune.training.config import to_yaml
from stratatune.training.folder import LOCK, is_running

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)


def test_a_lock_is_seen_and_freed_with_its_holder(tmp_path):
    path = tmp_path / "a.lock"
    assert not is_held(path)  # there is none
    lock = hold(path)
    assert lock is not None and is_held(path) and hold(path) is None
    lock.release()
    assert path.exists() and not is_held(path)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert is_held(path)
    holder.kill()
    holder.communicate()
    assert not is_held(path)


HOLDER = """
import sys, time
from pathlib import Path
from stratatune.locks import hold
lock = hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("there", [False, True])
def test_a_run_whose_data_are_refused_leaves_no_folder_but_the_user_s_own(there, run, tmp_path):
    (tmp_path / "bad.csv").write_text("text,label\ngood,1\n,0\n")
    if there:
        (tmp_path / "run").mkdir()
    with pytest.raises(DataError, match="empty in 1 of 2 rows"):
        run(train=str(tmp_path / "bad.csv"))
    assert (tmp_path / "run").exists() is there


def test_a_second_run_into_the_same_folder_gets_one_line(run, tmp_path):
    (tmp_path / "run").mkdir()
    lock = hold(tmp_path / "run" / LOCK)
    assert lock is not None
    for resume in (False, True):
        with pytest.raises(ConfigError, match="another process is training into") as caught:
            run(epochs=1, resume=resume)
        assert len(caught.value.errors) == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    lock.release()
    assert run(epochs=1).epochs == 1
    assert not is_running(tmp_path / "run")


def test_a_killed_run_is_stopped_and_a_living_one_runs(settings, tmp_path):
    config = settings(epochs=400, checkpoint_every=1)
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    line = ["-m", "stratatune", "train", str(tmp_path / "run.yaml"), "--quiet"]
    process = forked.start(line, tmp_path)
    while process.poll() is None and not (tmp_path / "run" / "checkpoint.safetensors").exists():
        time.sleep(0.02)
    assert process.poll() is None
    assert read_records(tmp_path / "run")[1][0].status == "running"
    second = forked.start([*line, "--json"], tmp_path)
    out, _ = second.communicate()
    assert second.returncode == 2
    assert "another process is training into" in json.loads(out)["error"]["message"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_records(tmp_path / "run")[1][0].status == "stopped"


# ---- the environment ----


@pytest.mark.parametrize("environment", [{}, {"RANK": "0"}, {"RANK": "3"}, {"RANK": "3", "WORLD_SIZE": "1"}])
def test_one_process_writes_whatever_its_rank_is_said_to_be(run, monkeypatch, tmp_path, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_main()
    result = run(epochs=1)
    assert (tmp_path / "run" / "result.json").exists() and (tmp_path / "run" / "adapter").exists()
    expected = [notice for notice in result.notices if "RANK" in notice]
    assert len(expected) == int(environment.get("RANK", "0") != "0")


@pytest.mark.parametrize(
    "environment",
    [
        *({"RANK": "1", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "2"}, {"LOCAL_RANK": "0"}, {"LOCAL_RANK": "1", "RANK": "1"}),
        {"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
        {"RANK": "x", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    ],
)
def test_several_processes_without_a_launcher_are_refused(run, monkeypatch, tmp_path, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="torchrun") as caught:
        run(epochs=1)
    assert len(caught.value.errors) == 1 and "\n" not in caught.value.errors[0]
    assert not (tmp_path / "run").exists()


def test_processes_that_have_not_met_are_refused(monkeypatch):
    distributed.check_met()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="1 processes are connected"):
        distributed.check_met()
