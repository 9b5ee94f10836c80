"""The engine on Ray: a real cluster on the loopback with two workers, one of which is killed in the middle."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import pytest

import gridding
from stratatune.cache.folders import list_caches
from stratatune.errors import ResourceError
from stratatune.studies.grid.book import Store
from stratatune.studies.grid.ray_engine import RayEngine
from stratatune.studies.grid.records import read_records

psutil = pytest.importorskip("psutil")
HANGS = 1800  # seconds after which a process is given up, however slow the machine


def test_a_worker_that_is_lost(tmp_path):
    """Nothing is lost and nothing is trained twice: its run goes on elsewhere, from its checkpoint."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'stratatune[ray]'")
    recipe, out = gridding.write_recipe(tmp_path, base={"epochs": 12}), tmp_path / "grid"
    line = [sys.executable, "-m", "stratatune", "grid", str(recipe), "--out", str(out), "--json"]
    environment = {**os.environ, "STRATATUNE_CACHE": str(tmp_path / "caches")}
    grid = subprocess.Popen(
        [*line, "--engine", "ray", "--jobs", "2"], stdout=subprocess.PIPE, env=environment, text=True
    )
    try:
        _one_that_trains(grid, out).kill()
        answer = json.loads(grid.communicate(timeout=HANGS)[0])
    finally:
        grid.kill()
        grid.communicate()  # closes the pipe
    assert (answer["ran"], answer["failed"], answer["caches"]) == (4, [], 2)
    records = read_records(out)[1]
    assert {record.status for record in records} == {"done"}
    assert all(gridding.epochs_of(record.folder) == list(range(1, 13)) for record in records)
    with Store.open(out) as store:
        assert sorted(row["starts"] for row in store.runs()) == [1, 1, 1, 2]
    assert all(record.result["cache_hit"] for record in records)
    assert len(list_caches(tmp_path / "caches")) == 2


def _one_that_trains(grid, out):
    """The process of Ray's that holds a worker in the middle of a run."""
    until = time.monotonic() + HANGS
    while time.monotonic() < until and grid.poll() is None:
        if any(out.glob("runs/*/checkpoint.safetensors")):
            for one in psutil.Process(grid.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                    if "stratatune.studies.grid.worker" in " ".join(one.cmdline()) and one.children():
                        return one.parent()
        time.sleep(0.05)
    raise AssertionError("no run began")


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ResourceError, match="needs ray, which is not installed"):
        RayEngine()


def test_not_reachable():
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'stratatune[ray]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ResourceError, match=f"Ray cannot be reached at {address}: .*refused"):
        RayEngine(address)
