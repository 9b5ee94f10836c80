"""The hub: an export is pushed to one on loopback and loaded back by its id; offline says so in one line."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys

import pytest
import yaml

import stratatune as st
from fakehub import fake_hub
from stratatune.app.card import _Run, _scores
from stratatune.app.cli import run as command
from stratatune.data.readers import read
from stratatune.errors import DataError, ModelError, ResourceError
from stratatune.hub import fetched, from_cache_if_unreachable, push
from stratatune.model.artefact import load
from stratatune.model.base import load_tokenizer
from stratatune.plan import shape_of

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
from stratatune.app.cli import run
import stratatune as st
from stratatune.training.predict import Predictor

folder, out = sys.argv[1:]
codes = [run(["export", folder, "--to", "native", "--out", f"{out}/native", "--push", "someone/films", "--private"])]
codes.append(run(["export", folder, "--to", "merged", "--out", f"{out}/merged", "--push", "someone/films-merged"]))
one, other = Predictor(folder, device="cpu"), Predictor("someone/films", device="cpu")
texts = ["a great film", "the worst book"]
same = (one.predict(texts).probabilities == other.predict(texts).probabilities).all()
model = st.load("someone/films@main")
model.push_to_hub("someone/by-hand")
from transformers import AutoModelForSequenceClassification
merged = AutoModelForSequenceClassification.from_pretrained("someone/films-merged")
told = []
try:
    st.load("someone/nothing")
except Exception as error:
    told.append(str(error))
print(json.dumps({"codes": codes, "same": bool(same), "labels": merged.config.id2label, "told": told}))
"""


@pytest.fixture(scope="module")
def trained(data, tiny_folder, tmp_path_factory):
    """The folder of a finished run whose plan can be merged."""
    out = tmp_path_factory.mktemp("runs") / "films"
    settings = {"objective": "classification", "text": "text", "label": "label", "epochs": 2, "lr": 1e-2}
    st.train(model=tiny_folder("bert"), plan="2: lora", train=data, eval=data, out=str(out), cache="ram", **settings)
    return out


@pytest.fixture
def ran(trained, tmp_path):
    """Gives ``ran(server, token)``: what the script says with this hub."""

    def run(server, token="right"):
        environment = {
            **os.environ,
            **{
                "HF_ENDPOINT": server.address,
                "HF_HUB_OFFLINE": "0",
                "HF_TOKEN": token,
                "HF_HOME": str(tmp_path / "hf"),
            },
            **{"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
        }
        words = [sys.executable, "-c", SCRIPT, str(trained), str(tmp_path)]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    return run


def test_what_is_pushed_is_loaded_by_its_id(ran):
    with fake_hub() as server:
        said = ran(server)
        assert said.returncode == 0, said.stderr
        found = json.loads(said.stdout.splitlines()[-1])
        repos, private = server.repos, server.private
    assert found["codes"] == [0, 0] and found["same"]
    assert set(found["labels"].values()) == {"negative", "positive"}
    assert "cannot fetch someone/nothing from the hub" in found["told"][0] and "\n" not in found["told"][0]
    assert {"adapter.safetensors", "adapter.json", "README.md"} <= repos["someone/films"].keys()
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= repos["someone/films-merged"].keys()
    assert "adapter.safetensors" in repos["someone/by-hand"] and "model.safetensors" not in repos["someone/by-hand"]
    assert private["someone/films"] and not private["someone/films-merged"]
    card = repos["someone/films"]["README.md"].decode()
    assert card.startswith("---\n") and "# someone/films" in card


def test_the_card_tells_of_the_run(trained, tmp_path):
    assert command(["export", str(trained), "--to", "native", "--out", str(tmp_path / "native")]) == 0
    card = (tmp_path / "native" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "stratatune" and "stratatune" in front["tags"] and front["base_model"]
    (rows,) = json.loads((trained / "result.json").read_text())["rows"].values()
    (line,) = re.findall(r"\| evaluation \| accuracy \|.*", card)
    assert " to " in line and line.endswith(f"| {rows} |")
    for part in ("## Plan", "frozen depth", "## Command", "stratatune train", "## Exits", "## Versions", "torch"):
        assert part in card, part
    assert str(tmp_path) not in card  # where the data lay is nobody's business


def test_the_card_counts_rows_not_labels():
    """Labels of a set, entities and the classes of several heads are not rows, and accuracy is no share of them."""
    classes = [{"label": "a", "n": 30}, {"label": "b", "n": 50}]

    def lines(metrics, **found):
        result = {
            "best": metrics,
            "by_class": {"evaluation": {"classes": classes, **found}},
            "rows": {"evaluation": 40},
        }
        return _scores(_Run(result, {}, {}))[4:-1]

    assert lines({"accuracy": 0.9, "mean": 0.8}) == [
        "| evaluation | accuracy | 0.9000 |  | 40 |",
        "| evaluation | mean | 0.8000 |  | 40 |",
    ]
    classes[:] = [{"label": "a", "n": 15}, {"label": "b", "n": 25}]
    assert lines({"accuracy": 0.9}, calibration_error=0.1) == [
        "| evaluation | accuracy | 0.9000 | 0.7695 to 0.9604 | 40 |"
    ]
    assert lines({"accuracy": 0.9011}, calibration_error=0.1)[0].endswith("0.9011 |  | 40 |")  # a mean of two data sets


def test_offline_says_so_in_one_line(trained, tmp_path, capsys):
    with pytest.raises(ModelError, match="cannot fetch someone/films from the hub: HF_HUB_OFFLINE is set") as caught:
        load("someone/films")
    assert "\n" not in caught.value.message
    with pytest.raises(ResourceError, match="cannot push to someone/films: HF_HUB_OFFLINE is set"):
        push(tmp_path, "someone/films")
    assert command(["export", str(trained), "--to", "native", "--out", str(tmp_path / "n"), "--push", "someone/f"]) == 1
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert (tmp_path / "n" / "adapter.json").is_file()  # what would have been pushed is there


@pytest.mark.parametrize("fault", [socket.gaierror(socket.EAI_NONAME, "unknown"), TimeoutError(), ConnectionError()])
def test_a_hub_that_cannot_be_reached_is_not_asked_again(tmp_path, monkeypatch, fault):
    """Without a network huggingface_hub waits and asks again for each file; one line comes at once instead."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    def unreachable(*_, **__):
        raise fault

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_http.time, "sleep", lambda _: pytest.fail("it asked again"))
    lines = "cannot reach the hub|couldn't connect to|nor reachable on the hub|Couldn't reach 'some/data' on the Hub"
    for ask in (
        lambda: shape_of("no-such-model"),
        lambda: load_tokenizer("some/thing"),
        lambda: fetched("some/thing"),
        lambda: read("some/data"),
        lambda: push(tmp_path, "some/thing"),
    ):
        with pytest.raises((ModelError, DataError, ResourceError), match=lines) as caught:
            ask()
        assert "\n" not in caught.value.message and "HF_HUB_OFFLINE" not in caught.value.message
        assert not constants.HF_HUB_OFFLINE


def test_a_proxy_may_know_the_hub(monkeypatch):
    """Where a proxy is set, this machine need not know the hub's address."""
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("the proxy's matter"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with from_cache_if_unreachable():
        assert not constants.HF_HUB_OFFLINE


def test_what_is_no_id_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/mine", "mine", "./a/b", "/a/b", "a/b/c", "~/x"):
        assert "hub" not in str(fetched(name))
    for wrong in ("mine", "a/b/c", "a b/c", "a/b@main"):
        with pytest.raises(ModelError, match="is not a hub id"):
            push(tmp_path, wrong)
    assert command(["export", "run", "--out", "out", "--push", "no id"]) == 2
    assert command(["export", "run", "--out", "out", "--private"]) == 2
