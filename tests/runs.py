"""What the tests of the train floor share: tiny labelled files, and a run of a few steps on a tiny model."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from stratatune.progress import Reporter
from stratatune.training.config import RunConfig, validate
from stratatune.training.run import train

WORDS = {
    "positive": ("great", "good", "best"),
    "negative": ("terrible", "bad", "worst"),
    "neutral": ("fine", "same", "maybe"),
}
FILLER = ("the film", "a story", "this book", "that day", "a very long night in the city", "she saw the movie and")


def rows(count: int, seed: int, classes: int = 2) -> list[dict[str, Any]]:
    """Texts of different lengths that hold a word of their class; ``score`` is a number that goes with it."""
    chance = random.Random(seed)
    names = list(WORDS)[:classes]
    found = []
    for number in range(count):
        label = names[number % classes]
        text = " ".join([*chance.choices(FILLER, k=chance.randint(1, 4)), chance.choice(WORDS[label])])
        found.append({"text": text, "label": label, "score": 1.0 + 2.0 * names.index(label) + chance.random() / 4})
    chance.shuffle(found)
    return found


def write_csv(path: Path, data: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(data[0]))
        writer.writeheader()
        writer.writerows(data)
    return path


@pytest.fixture(scope="session", autouse=True)
def caches_in_a_temporary_folder(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        patch.setenv("STRATATUNE_CACHE", str(tmp_path_factory.mktemp("stratatune")))
        yield


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv and dev.csv (two classes), train3.csv and dev3.csv (three)."""
    folder = tmp_path_factory.mktemp("data")
    for classes, end in ((2, ""), (3, "3")):
        write_csv(folder / f"train{end}.csv", rows(48, 0, classes))
        write_csv(folder / f"dev{end}.csv", rows(21, 1, classes))
    return folder


@pytest.fixture
def settings(files, tiny_folder, tmp_path):
    """Gives ``settings(**changes)``: a run's configuration, two short epochs unless it is changed."""

    def make(family: str = "bert", kind: str = "mlm", **changes: Any) -> RunConfig:
        data: dict[str, Any] = {
            **{"model": str(tiny_folder(family, kind)), "plan": "bft-adapter", "device": "cpu"},
            **{"train": str(files / "train.csv"), "eval": str(files / "dev.csv"), "text": "text", "label": "label"},
            **{"out": str(tmp_path / "run"), "cache": "ram", "epochs": 2, "batch_size": 8, "lr": 0.003},
            "precision": "fp32",  # the numbers of the tests are those of any processor
        }
        return validate({**data, **changes})

    return make


@pytest.fixture
def run(settings):
    """Gives ``run(**changes)``: the result of a run of ``settings(**changes)``, silent."""
    return lambda **changes: train(settings(**changes), reporter=Reporter(quiet=True))
