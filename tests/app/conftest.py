"""A tiny data set, the commands run in this process, and one trained run for every test that only uses it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stratatune.app.cli import run

GOOD, BAD = "a very good film and a great story", "a very poor film and a sad story"
ROWS = [
    (GOOD, "positive"),
    (BAD, "negative"),
    (f"she likes it , {GOOD}", "positive"),
    (f"he hates it , {BAD}", "negative"),
] * 6


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON value and nothing else."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line after ``error:``, which must be followed by a hint and be no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "\nhint: " in f"\n{self.err}"
        assert "Traceback" not in self.err
        return lines[0].removeprefix("error: ")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """``say("plan", "lora", "--json")``: runs a command as the console script does."""

    def command(*arguments: object) -> Said:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return command


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "caches"))


def write_csv(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv file of 24 rows, two classes."""
    return write_csv(tmp_path_factory.mktemp("data") / "films.csv", ROWS)


@pytest.fixture(scope="session")
def trained(data: Path, tiny_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: BERT, four blocks, an adapter at depth 2."""
    import stratatune as st

    out = tmp_path_factory.mktemp("runs") / "films"
    settings = {"text": "text", "label": "label", "epochs": 6, "lr": 1e-2, "batch_size": 8, "cache": "ram"}
    st.train(model=tiny_folder("bert"), plan="bft-adapter@2", train=data, eval=data, out=str(out), **settings)
    return out
