"""Every block of README and guides is run: commands in this process, Python page by page in one namespace.

What the pages name is made on the spot (``pages.py``, ``given.py``). What is not run is in one table with the reason;
a block or line that is neither run nor there fails, and so does an entry whose block is gone.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import forked
from docs.given import GIVEN
from docs.pages import AFTER, BEFORE, MODELS, ROOT, SMALLER, Block, blocks_of, command_words, write_files
from stratatune.app.cli import run
from stratatune.objectives.registry import OBJECTIVES
from stratatune.shapes import table

OUTPUT = "an example of what is printed"
DATA = "an example of data: pages.py makes the page's files of it"
LAUNCHER = "needs a launcher with several processes; tests/training/test_distributed.py runs them"
CLUSTER = "needs a cluster"
OTHER_VERSIONS = "installs other versions into an environment of their own"
INSTALLS = "installs packages"

#: The page, the beginning of a block (then all of it is left out) or of a line, and the reason.
NOT_RUN: dict[tuple[str, str], str] = {
    ("README.md", "make demo"): "make; tests/app/test_demo.py runs the demo",
    ("README.md", "make test"): "make; the tests themselves",
    ("README.md", "pip install ."): INSTALLS,
    ("architecture.md", "class Question:"): "contracts, read off the code by contracts.py",
    ("chat.md", '{"messages":'): DATA,
    ("chat.md", "note: the loss covers"): OUTPUT,
    ("compatibility.md", "make compat"): OTHER_VERSIONS,
    ("compatibility.md", "python scripts/compat.py"): OTHER_VERSIONS,
    ("compatibility.md", "ATEN_CPU_CAPABILITY"): "the tests themselves",
    ("compatibility.md", "printf 'int mkl"): "a compiler is needed",
    ("compatibility.md", "LD_PRELOAD"): "the tests themselves",
    ("dpo.md", '{"prompt":'): DATA,
    ("export.md", "stratatune export runs/mine --to merged --out model --push"): "uploads; tests/app/test_hub.py does",
    ("gpu.md", ".venv/bin/python"): "a GPU, and minutes",
    ("grid.md", "torchrun"): LAUNCHER,
    ("grid.md", "accelerate launch"): LAUNCHER,
    ("grid.md", "#!/bin/bash\n#SBATCH --nodes=1"): CLUSTER,
    ("grid.md", "#!/bin/bash\n#SBATCH --array"): CLUSTER,
    ("grid.md", "#!/bin/bash\n#SBATCH --nodes=4"): CLUSTER,
    ("grid.md", "apiVersion: ray.io/v1"): CLUSTER,
    ("grid.md", "title: Two plans on films"): "a recipe: pages.py writes it to films.yaml, which is run",
    ("index.md", "pip install"): INSTALLS,
    ("index.md", "stratatune demo"): "minutes; tests/app/test_demo.py runs it",
    ("large.md", "python -m benchmarks.streamed"): "a model of 8 billion parameters",
    ("multilabel.md", "text,labels"): DATA,
    ("multitask.md", "text,topic,mood,urgency"): DATA,
    ("objectives.md", "stratatune bench"): "peft warns; tests/studies/bench benches every objective",
    ("rank.md", '{"query":'): DATA,
    ("rank.md", '{"prompt":'): DATA,
    ("reliability.md", "python -m benchmarks.faults"): "hours",
    ("reliability.md", "pytest tests/faults"): "the tests themselves",
    ("serve.md", "pip install"): INSTALLS,
    ("serve.md", "from openai import"): "two runs more; tests/serving/test_openai.py asks by the same client",
    ("serve.md", "export STRATATUNE_SERVE"): "sets the shell's variables; tests/serving/test_limits.py asks with keys",
    ("span.md", '{"question":'): DATA,
    ("tags.md", "Ada\tB-person"): DATA,
    ("trackers.md", "tensorboard --logdir"): "does not return; tests/training/test_trackers.py reads the files back",
    ("vectors.md", '{"anchor":'): DATA,
    ("vectors.md", '{"id": 1,'): DATA,
}
#: What the blocks of a page import or call, besides what every installation has.
NEEDS: dict[str, tuple[str, ...]] = {
    "apply.md": ("peft", "datasets"),
    "export.md": ("peft", "onnx", "onnxscript", "onnxruntime"),
    "from.md": ("sentence_transformers",),
    "grid.md": ("jinja2", "matplotlib"),
    "rank.md": ("sentence_transformers",),
    "report.md": ("jinja2", "matplotlib"),
    "serve.md": ("fastapi", "uvicorn", "prometheus_client"),
    "trackers.md": ("tensorboard",),
    "vectors.md": ("sentence_transformers",),
}
PAGES = ["README.md", *(path.name for path in sorted((ROOT / "docs").glob("*.md")) if blocks_of(path.name))]
SHELL = ("", "sh", "bash", "console")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Gives the folder of the tiny model that stands for a hub id, saved once a session."""
    made: dict[str, str] = {}

    def folder(name: str) -> str:
        if name not in made:
            path = tmp_path_factory.mktemp("models") / name.rpartition("/")[2]
            MODELS[name](path)
            made[name] = str(path)
        return made[name]

    return folder


class Page:
    """A page that is followed from the top in the current folder."""

    def __init__(self, name: str, models: Callable[[str], str]):
        self.name, self.models, self.port = name, models, free_port()
        self.names: dict[str, Any] = vars(sys.modules["page"])
        self.servers: list[forked.Started] = []

    def follow(self) -> None:
        write_files(self.name, self.models)
        for line in BEFORE.get(self.name, ()):
            self.command(line)
        if self.name in GIVEN:
            self.names |= GIVEN[self.name](self.models)
        for block in blocks_of(self.name):
            self.block(block)
        for line in AFTER.get(self.name, ()):
            self.command(line)

    def left_out(self, text: str, *, whole: bool = False) -> bool:
        """Whether ``NOT_RUN`` has this line, or this ``whole`` block: of commands by its first two lines."""
        starts = [start for page, start in NOT_RUN if page == self.name and ("\n" in start or not whole)]
        return any(text.startswith(start) for start in starts)

    def block(self, block: Block) -> None:
        shell = block.language in SHELL
        if self.left_out(block.text, whole=shell):
            return
        if block.language == "python":
            self.python(block.text)
        elif block.language == "json" and self.servers:
            self.answer(block.text)
        elif shell:
            for line in block.commands:
                if not self.left_out(line):
                    self.line(line, block.language)
        else:
            pytest.fail(f"{self.name}: neither run nor in NOT_RUN: {block.text}")

    def line(self, line: str, language: str) -> None:
        if line.startswith("stratatune serve "):
            self.serve(line)
        elif line.startswith("stratatune "):
            self.command(line)
        elif line.startswith("curl "):
            self.curl(line)
        elif line.startswith(("loaded ", "serving ")) and self.servers:
            said = "".join(self.servers[-1].said)
            assert re.sub(r"[0-9a-f]{12}|:\d+", "", line) in re.sub(r"[0-9a-f]{12}|:\d+", "", said)
        elif language:
            pytest.fail(f"{self.name}: neither run nor in NOT_RUN: {line}")
        else:  # a plan, drawn on a model of 24 blocks
            assert run(["plan", line, "--model", self.models("roberta-large")]) == 0, line

    def smaller(self, text: str) -> str:
        for this, that in SMALLER.get(self.name, ()):
            text = text.replace(this, that)
        return text

    def command(self, line: str) -> None:
        line = self.smaller(line)
        if "{digest}" in line:
            line = line.replace("{digest}", next(Path("caches").rglob("key.json")).parent.name)
        words = command_words(line, self.models)
        assert run(words) == 0, line
        if "--out" in words:
            assert Path(words[words.index("--out") + 1]).exists(), line

    def python(self, text: str) -> None:
        text = self.smaller(text).replace("localhost:8080", f"localhost:{self.port}")
        for name in MODELS:
            if f'"{name}"' in text:
                text = text.replace(f'"{name}"', repr(self.models(name)))
        exec(compile(text, self.name, "exec"), self.names)

    def serve(self, line: str) -> None:
        """Starts the server in a process of its own and waits until it answers."""
        words = [*command_words(line, self.models), "--port", str(self.port)]
        started = forked.start(["-m", "stratatune", *words], Path.cwd())
        self.servers.append(started)
        for _ in range(600):
            assert started.poll() is None, started.said
            try:
                urllib.request.urlopen(f"http://localhost:{self.port}/ready").close()
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        pytest.fail("\n".join(started.said))

    def curl(self, line: str) -> None:
        line = line.replace("localhost:8080", f"localhost:{self.port}")
        self.names["answer"] = json.loads(subprocess.run(["bash", "-c", line], check=True, capture_output=True).stdout)

    def answer(self, text: str) -> None:
        """What was answered has the form of the page's example."""
        shown, found = json.loads(text), self.names["answer"]
        assert found["n"] == shown["n"]
        for task, rows in shown["answers"].items():
            assert [set(row) for row in found["answers"][task]] == [set(row) for row in rows]

    def stop(self) -> None:
        for server in self.servers:
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def follow(
    models: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Follows a page in an empty folder, with tables of architectures and of objectives of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "caches"))
    monkeypatch.setattr(table, "_ADDED", {})
    monkeypatch.setitem(sys.modules, "page", types.ModuleType("page"))  # where its classes are
    opened: list[Page] = []

    def one(name: str) -> None:
        opened.append(Page(name, models))
        opened[-1].follow()

    objectives = dict(OBJECTIVES)
    yield one
    OBJECTIVES.clear()
    OBJECTIVES.update(objectives)
    for page in opened:
        page.stop()


@pytest.mark.parametrize("name", PAGES)
def test_every_block_runs(name, follow, inline_grids):
    for module in NEEDS.get(name, ()):
        pytest.importorskip(module)
    follow(name)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("sh", "make something"),
        ("", "stratatune train --model roberta-base --train no-such-file.csv"),
        ("", "5:3 lora"),
        ("text", "neither data nor output"),
    ],
)
def test_what_neither_runs_nor_is_listed_fails(language, text, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "page", types.ModuleType("page"))
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        Page("index.md", models).block(Block(language, f"{text}\n"))


def test_what_is_not_run_is_still_on_its_page():
    for page, start in NOT_RUN:
        blocks = blocks_of(page)
        lines = [line for block in blocks for line in block.commands]
        assert any(one.startswith(start) for one in (*(block.text for block in blocks), *lines)), (page, start)


def test_what_is_made_smaller_is_still_on_its_page():
    for page, changes in SMALLER.items():
        text = "".join(block.text for block in blocks_of(page))
        assert [this for this, _ in changes if this not in text] == [], page
