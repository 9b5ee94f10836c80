"""A worker pays for its imports once: a run in it finds every library there."""

import json
import subprocess
import sys
import threading
import time

import psutil
import pytest
from tqdm import tqdm

import gridding
from stratatune.studies.grid import worker
from stratatune.studies.grid.expand import expand
from stratatune.studies.grid.recipe import load_recipe

IMPORTED = """
import importlib, json, sys
from stratatune.studies.grid.worker import PRELOADED, work
for name in PRELOADED: importlib.import_module(name)
there = set(sys.modules)
outcome = work(json.loads(sys.stdin.read()))
print(json.dumps([outcome["status"], sorted(set(sys.modules) - there)]))
"""


def test_a_run_imports_its_model_s_code_alone(tmp_path):
    recipe = load_recipe(gridding.write_recipe(tmp_path))
    config = expand(recipe, tmp_path)[0].config.model_dump(mode="json")
    job = {"kind": "run", "name": "one", "config": {**config, "out": str(tmp_path / "run"), "cache": "off"}}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], input=json.dumps(job), capture_output=True, text=True, check=True
    )
    status, new = json.loads(done.stdout.splitlines()[-1])
    assert status == "done", done.stderr
    heavy = {"sklearn", "pandas", "datasets", "accelerate"}
    assert sorted(name for name in new if name.partition(".")[0] in heavy) == []
    assert len([name for name in new if name.startswith("transformers.")]) < 20


SLOW = """
import time
import stratatune.studies.grid.worker as worker

def work(job):
    open(job["name"], "w").close()
    time.sleep(600)

worker.work, worker.PRELOADED = work, ()  # nothing is trained
if __name__ == "__main__":
    worker.main()
"""


@pytest.mark.parametrize("how", ["its standard input ends", "it is killed"])
def test_no_run_outlives_its_worker(tmp_path, how):
    (tmp_path / "slow.py").write_text(SLOW)
    line = [sys.executable, str(tmp_path / "slow.py")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        begun = tmp_path / "begun"
        print(json.dumps({"name": str(begun)}), file=worker.stdin, flush=True)
        while not begun.exists():
            assert worker.poll() is None
            time.sleep(0.05)
        below = psutil.Process(worker.pid).children(recursive=True)
        assert below
        worker.kill() if how == "it is killed" else worker.stdin.close()
    _, alive = psutil.wait_procs(below, timeout=60)
    assert alive == []


def test_bars_of_a_run_make_no_lock_between_processes(monkeypatch):
    """It would outlive the process, which ends at once, and Python would warn of it."""

    class Ends(BaseException):
        pass

    class Nothing:
        def send_bytes(self, data):
            pass

        def join(self):
            threading.Event().wait()

    def ends(code):
        raise Ends

    monkeypatch.setattr(tqdm, "_lock", None, raising=False)
    monkeypatch.setattr(worker, "work", lambda job: {})
    monkeypatch.setattr(worker.multiprocessing, "parent_process", Nothing)
    monkeypatch.setattr(worker.os, "_exit", ends)
    with pytest.raises(Ends):
        worker._run("{}", Nothing())
    assert isinstance(tqdm.get_lock(), type(threading.RLock()))
