"""The server as a whole: its command, its pages, its end, and many requests at once."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import forked
from browser import chromium
from stratatune.app.cli import run
from stratatune.errors import ResourceError
from stratatune.serving import server
from stratatune.serving.server import bound

from .conftest import PLANS, TEXTS, Door, table_of


def test_openapi_describes_every_answer(door):
    said = door.ask("GET", "/openapi.json").json
    assert {"/predict", "/tasks", "/tasks/{name}", "/tasks/{name}/predict", "/health", "/ready", "/metrics"} == {
        path for path in said["paths"] if not path.startswith("/v1/")
    }
    assert {"200", "401", "413", "422", "429", "503", "504"} <= set(said["paths"]["/predict"]["post"]["responses"])


def test_health_and_tasks(door):
    assert door.ask("GET", "/health").json["status"] == "ok"
    assert door.ask("GET", "/ready").json == {"ready": True, "tasks": 3}
    tasks = {task["name"]: task for task in door.ask("GET", "/tasks").json["tasks"]}
    assert {name: task["objective"] for name, task in tasks.items()} == {name: one for name, (_, one) in PLANS.items()}
    assert len({task["trunk"] for task in tasks.values()}) == 1
    assert not any("/" in task["base"] for task in tasks.values())  # no paths of the server


def test_metrics(serve, tuned):
    door = serve(table=table_of(tuned))
    door.predict(TEXTS[:5], ["lora", "score"])
    door.ask("GET", "/a/path/of/a/stranger")
    assert door.counter('stratatune_answers_total{task="lora"}') == 5
    assert door.counter("stratatune_trunk_texts_asked_total") == 10
    assert door.counter("stratatune_trunk_texts_computed_total") == len(set(TEXTS[:5]))
    assert door.counter('stratatune_requests_total{route="other",status="404"}') == 1
    assert door.counter("stratatune_tasks") == 3


def test_many_clients_at_once(door):
    expected = door.predict(TEXTS).json["answers"]

    def one(seed: int) -> int:
        chance, right = random.Random(seed), 0
        for _ in range(25):
            at = chance.sample(range(len(TEXTS)), chance.randint(1, 4))
            names = chance.sample(list(PLANS), chance.randint(1, 3))
            said = door.predict([TEXTS[number] for number in at], names)
            assert said.status == 200
            for name in names:
                for row, number in zip(said.json["answers"][name], at, strict=True):
                    for key, value in expected[name][number].items():
                        assert row[key] == (pytest.approx(value, abs=2e-5) if isinstance(value, float) else value)
            right += 1
        return right

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(8))) == 200


@pytest.fixture
def started(tuned, tmp_path):
    """`stratatune serve` in a process of its own; gives the process and its port."""
    process = forked.start(["-m", "stratatune", "serve", *tuned.values(), "--port", "0", "--json"], tmp_path)
    while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", process.said[1])):
        assert process.poll() is None, process.said
        time.sleep(0.02)
    yield process, int(found[1])
    process.kill()
    process.wait()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told_and_answers_first(started, how):
    process, port = started
    door = Door(port, None, None)  # pyright: ignore[reportArgumentType]
    while True:
        try:
            assert door.ask("GET", "/ready").status == 200
            break
        except ConnectionError:
            continue
    found = []
    asking = threading.Thread(target=lambda: found.append(door.predict(TEXTS * 10)))
    asking.start()
    while door.counter("stratatune_batch_texts_count") < 1:  # it is being answered
        pass
    process.send_signal(how)
    asking.join()
    assert found[0].status == 200
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["tasks"] == list(PLANS)


def test_mistakes_on_the_command_line(tuned, capsys, monkeypatch, door):
    def error(*words: str) -> str:
        code = run(["serve", *words])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return f"{code} {next(line for line in said.splitlines() if line.startswith('error'))}"

    assert error("no/such/run") == "2 error: no/such/run holds no trained adapter (adapter.json is missing)"
    assert error(tuned["lora"], tuned["lora"]) == "2 error: two runs are called lora"
    assert error("a b=runs/x").startswith("2 error: task name: 'a b'")
    assert error(tuned["lora"], "--queue", "0") == "2 error: queue: 0 must be more than 0"
    assert error(tuned["lora"], "--port", str(door.port)).startswith(f"1 error: cannot listen on 127.0.0.1:{door.port}")
    assert error(tuned["lora"], "--host", "not an address").startswith("1 error: cannot listen on not an address")
    monkeypatch.setenv("STRATATUNE_SERVE_KEYS", "short")
    assert error(tuned["lora"]).startswith("2 error: STRATATUNE_SERVE_KEYS: a key is too short")


def test_without_the_extra_it_names_the_line_that_installs_it(tuned, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert run(["serve", tuned["lora"]]) == 1
    said = capsys.readouterr().err
    assert "error: stratatune serve needs fastapi, which is not installed" in said
    assert 'hint: pip install "stratatune[serve]"' in said


def test_the_page_runs_its_own_script_alone(door):
    said = door.ask("GET", "/")
    policy = said.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"(?:src|href)=|https?://", said.body.decode())


def test_the_page_shows_every_answer_of_a_task_with_its_own_chances(tmp_path):
    several = {"topic": "sport", "topic_b": None, "stars": 2.5}
    several |= {"p_topic_sport": 0.7, "p_topic_war": 0.3, "p_topic_b_x": 0.1}
    rows = {"several": several, "one": {"label": "x", "p_x": 1}, "set": {"labels": [], "p_a": 0.2}, "score": {"s": 0.5}}
    page = (Path(server.__file__).parent / "page.html").read_text()
    shown = f"document.body.replaceChildren(...Object.entries({json.dumps(rows)}).map(one => shown(...one)));"
    (tmp_path / "page.html").write_text(page.replace("\nrun(async", f"\n{shown}\nif (false) run(async"))
    options = ["--headless", "--no-sandbox", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = [chromium(), *options, (tmp_path / "page.html").as_uri()]
    said = subprocess.run(done, capture_output=True, text=True, timeout=120, check=True).stdout
    body = re.sub("<meter.*?</meter>", "", said.partition("<body>")[2])
    lines = re.sub("<[^>]+>", "", re.sub("<(?:div|h3)[^>]*>", "\n", body).replace("</span><span>", " ")).split("\n")
    assert [line.strip() for line in lines if line.strip()] == [
        *("several", "topic: sport", "sport 0.700", "war 0.300", "topic_b: null", "x 0.100", "stars: 2.5"),
        *("one x", "x 1.000", "set none", "a 0.200", "score 0.5"),
    ]


def test_a_port_that_is_being_prepared_is_taken():
    """Before the models are loaded: two servers begun at once do not both load theirs."""
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ResourceError, match=f"cannot listen on 127.0.0.1:{port}"), bound("127.0.0.1", port):
            pass


@pytest.mark.parametrize("width", [500, 1200])
def test_the_page_in_a_browser(door, tmp_path, width):
    options = ["--headless", "--no-sandbox", "--virtual-time-budget=10000", f"--window-size={width},900"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    url = f"http://127.0.0.1:{door.port}/#a%20good%20film%0A%3Cb%3Ea%20bad%20film%3C/b%3E"
    said = subprocess.run([chromium(), *options, url], capture_output=True, text=True, timeout=120, check=True).stdout
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)
    assert "3 tasks on 1 trunk" in said
    assert said.count("<article>") == 2
    assert "&lt;b&gt;a bad film&lt;/b&gt;" in said  # a text is never read as HTML
    assert len(re.findall(r"<h3>(?:words|lora) <b>(?:positive|negative)</b>", said)) == 4
    assert len(re.findall(r"<h3>score <b>[0-9.]+</b>", said)) == 2
