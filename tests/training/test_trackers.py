"""Trackers get the settings, the plan, each evaluation and the last scores; what they keep is read back."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
import warnings

import pytest

from stratatune.errors import ResourceError

FINAL = "best_accuracy"


@pytest.fixture
def tracked(run, files, tmp_path, monkeypatch):
    """Gives ``tracked(name)``: the result of a run with this tracker, or a skip where it is not installed."""

    def make(name):
        pytest.importorskip(name, reason=f"{name} is not installed")
        monkeypatch.chdir(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the trackers' own
            return run(eval=str(files / "dev.csv"), epochs=2, out=str(tmp_path / "films"), loggers=(name,))

    return make


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "films" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("ignore")
def test_tensorboard(tracked, tmp_path):
    result = tracked("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars, texts, plans = {}, set(), []
    for path in {file.parent for file in (tmp_path / "films").rglob("events.out.tfevents.*")}:
        events = EventAccumulator(str(path))
        events.Reload()
        scalars |= {tag: [one.value for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        texts |= set(events.Tags()["tensors"])
        plans += [
            one.tensor_proto.string_val[0].decode()
            for tag in events.Tags()["tensors"]
            if tag.startswith("plan")
            for one in events.Tensors(tag)
        ]
    assert scalars["eval_accuracy"] == pytest.approx([one["eval_accuracy"] for one in lines(tmp_path)])
    assert scalars[FINAL] == pytest.approx([result.best["accuracy"]])
    assert any("frozen depth" in plan for plan in plans)
    kept = next((tmp_path / "films").rglob("hparams.yml")).read_text()
    assert "frozen_depth:" in kept and "lr:" in kept


@pytest.mark.filterwarnings("ignore")
def test_mlflow(tracked, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'mlruns'}")
    result = tracked("mlflow")
    client = mlflow.MlflowClient()
    found = client.search_runs([client.get_experiment_by_name("stratatune").experiment_id])
    assert len(found) == 1 and found[0].info.run_name == "films" and found[0].info.status == "FINISHED"
    assert found[0].data.params["epochs"] == "2" and "frozen_depth" in found[0].data.params
    assert found[0].data.metrics[FINAL] == pytest.approx(result.best["accuracy"])
    history = client.get_metric_history(found[0].info.run_id, "eval_accuracy")
    assert [one.value for one in history] == pytest.approx([one["eval_accuracy"] for one in lines(tmp_path)])
    assert [one.path for one in client.list_artifacts(found[0].info.run_id)] == ["plan.txt"]


@pytest.fixture
def mlflow_server(tmp_path):
    """The address of MLflow's own server on loopback."""
    pytest.importorskip("flask", reason="mlflow's server is not installed (mlflow-skinny has none)")
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", store, "--default-artifact-root", str(tmp_path / "artifacts")]
    with open(tmp_path / "server.log", "w") as log, subprocess.Popen(words, stdout=log, stderr=log) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                try:
                    with urllib.request.urlopen(f"{address}/health") as answer:
                        if answer.status == 200:
                            break
                except OSError:
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()
            server.wait()


@pytest.mark.filterwarnings("ignore")
def test_mlflow_s_own_server(tracked, mlflow_server, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    mlflow.set_tracking_uri(mlflow_server)
    result = tracked("mlflow")
    client = mlflow.MlflowClient(mlflow_server)
    found = client.search_runs([client.get_experiment_by_name("stratatune").experiment_id])
    assert found[0].data.metrics[FINAL] == pytest.approx(result.best["accuracy"])
    assert found[0].data.params["epochs"] == "2"


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tracked, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracked("wandb")
    kept = next((tmp_path / "films").rglob("*.wandb")).read_bytes()
    for word in (b"eval_accuracy", FINAL.encode(), b"frozen_depth", b"seconds_train"):
        assert word in kept, word
    pictures = [path.read_text() for path in (tmp_path / "films").rglob("*.html")]
    assert any("frozen depth" in page for page in pictures)


@pytest.mark.filterwarnings("ignore")
def test_trackio_keeps_it_on_this_machine(tracked, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    tracked("trackio")
    import sqlite3

    base = next((tmp_path / "trackio").rglob("*.db"))
    with sqlite3.connect(base) as opened:
        rows = [row[0] for row in opened.execute("select metrics from metrics")]
    assert any("eval_accuracy" in str(row) for row in rows) and any(FINAL in str(row) for row in rows)


def test_one_that_is_not_installed_is_named(run, tmp_path):
    missing = next(name for name in ("aim", "dvclive", "clearml", "swanlab") if importlib.util.find_spec(name) is None)
    with pytest.raises(ResourceError, match=f"the tracker {missing} is not installed"):
        run(out=str(tmp_path / "out"), loggers=(missing,))
