"""Schemas of a grid's book and a run folder, checked once where they are read: reports and listings rely on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from stratatune.data.labels import LONGEST_LABEL
from stratatune.errors import ConfigError, shown
from stratatune.outside import Unreadable, Written, first_mistake, parse_json, read_json, regular_file

_ModelT = TypeVar("_ModelT", bound=BaseModel)
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Epochs = Annotated[float, Field(ge=0, lt=2**63, allow_inf_nan=False)]
Plain = Annotated[str, Field(max_length=LONGEST_LABEL)]
Metrics = dict[str, Number]
AGAIN = "the file is damaged; train the run again, or give another folder"


class Settings(Written):
    """The settings of a run that anything but the run itself reads."""

    model: Plain
    plan: Plain = "bft-adapter"
    train: Plain
    task: Plain | None = None
    eval: Plain | None = None
    test: Plain | None = None
    objective: Plain = "auto"
    metric: Plain | None = None
    seed: Count = 0
    epochs: Count = 1
    cache: Plain = "auto"
    device: Plain = "auto"
    precision: Plain = "fp32"


class Seconds(Written):
    """The seconds of a run, by kind."""

    cache: Number
    train: Number
    eval: Number


class Outcome(Written):
    """The result of a finished run."""

    out: Plain = ""
    plan: Plain = ""
    objective: Plain = ""
    frozen_depth: Count
    backprop_blocks: Count
    trainable: Count
    total: Count
    best: Metrics
    best_epoch: Epochs
    test: Metrics
    epochs: Epochs
    seconds: Seconds
    tokens_per_second: Number
    peak_memory_bytes: Count
    cache_hit: bool
    processes: Count = 1
    metric: Plain = ""
    cached_depth: Count | None = None
    elapsed: list[Number] = Field(default_factory=list)
    labels: list[Plain] = Field(default_factory=list)
    rows: dict[str, Count] = Field(default_factory=dict)
    notices: list[Plain] = Field(default_factory=list)


class Line(Written):
    """One line of ``metrics.jsonl``; its metrics are checked as a whole, see :func:`lines_of`."""

    epoch: Epochs
    step: Count


class Environment(Written):
    """The content of ``env.json``."""

    threads: Count | None = None
    gpu: Plain | None = None
    directory: Plain | None = None
    libraries: dict[str, Plain | None] = Field(default_factory=dict)


class Row(Written):
    """A run of the book, its JSON columns as data."""

    id: Plain
    number: int
    status: Literal["waiting", "running", "done", "failed"]
    coordinates: dict[str, Plain | int | Number]
    config: Settings
    result: Outcome | None
    error: Plain | None
    starts: Count


class CacheBuilt(Written):
    """The result of building one trunk cache; empty where there was nothing to build."""

    folder: Plain = ""
    examples: Count = 0
    bytes: Count = 0
    computed: Count | bool = 0


class CachesBuilt(Written):
    """The result of building the trunk caches of one pair of data sets."""

    caches: list[CacheBuilt]
    depth: Count
    seconds: Number


class CacheRow(Written):
    """A shared trunk cache of the book."""

    name: Plain
    status: Literal["waiting", "running", "done", "failed", "lost"]
    result: CachesBuilt | None
    error: Plain | None


def checked(model: type[_ModelT], data: Any, place: str) -> Any:
    """Return ``data`` after validation by ``model``.

    Raises:
        ConfigError: they are not; the line names ``place``.
    """
    try:
        model.model_validate(data)
    except ValidationError as error:
        raise ConfigError([f"{place}: {first_mistake(error)}"], AGAIN) from error
    return data


def column(text: object, place: str) -> Any:
    """A JSON column of the book as data; None stays None.

    Raises:
        ConfigError: it is not text, or not JSON.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise ConfigError([f"{place}: {shown(text)} is not text"], AGAIN)
    try:
        return parse_json(text)
    except Unreadable as error:
        raise ConfigError([f"{place}: {error}"], AGAIN) from error


def file_of(path: Path, model: type[BaseModel]) -> dict[str, Any] | None:
    """The object in a JSON file of a run folder; None where there is no such file.

    Raises:
        ConfigError: it holds something else.
    """
    if not path.exists():
        return None
    try:
        data = read_json(path)
    except Unreadable as error:
        raise ConfigError([f"{path}: {error}"], AGAIN) from error
    return checked(model, data, str(path))


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; none where there is no such file.

    Raises:
        ConfigError: one is not an object of numbers.
    """
    if not path.exists():
        return []
    try:
        if wrong := regular_file(path):
            raise Unreadable(wrong)
        lines = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError, Unreadable) as error:
        raise ConfigError([f"{path}: {error}"], AGAIN) from error
    for number, line in enumerate(lines, start=1):
        checked(Line, line, f"{path}, line {number}")
        odd = [name for name, value in line.items() if not isinstance(value, int | float | str | None)]
        if odd:
            raise ConfigError([f"{path}, line {number}: {shown(odd[0])}: {shown(line[odd[0]])}"], AGAIN)
    return lines
