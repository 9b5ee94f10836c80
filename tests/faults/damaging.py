"""Damages every file of an artefact and asks for it again: the answer is the same as before, or says what is wrong.

``believed``: another answer and exit code 0. ``lost``: what can be made again (a cache, a run's remainder) was not.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.asking import Answer, ask
from faults.damage import DAMAGES, files_in
from faults.malformed import Bench


@dataclass
class Damaged:
    """What came of the damages of one kind of artefact."""

    kind: str
    tried: int = 0
    harmless: int = 0
    refused: int = 0
    slow: int = 0
    slowest: float = 0.0
    believed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Artefact:
    """What is damaged, how it is asked for, and whether it must come out right in spite of the damage."""

    folder: Path
    ask: Callable[[Path], Answer]
    seen: Callable[[Answer, Path], Any]
    recovers: bool = False
    without: tuple[str, ...] = ()


def _settings(bench: Bench, out: Path, *more: object) -> tuple[object, ...]:
    given = ("--model", bench.base, "--train", bench.data, "--eval", bench.data, "--text", "text", "--label", "label")
    return ("train", *given, "--plan", "bft-adapter@2", "--out", out, "--epochs", 2, "--json", *more)


def _scores(answer: Answer, folder: Path) -> Any:
    """A run's scores; its times differ."""
    result = json.loads(answer.out)
    return {name: result[name] for name in ("best", "best_epoch", "trainable", "epochs", "test", "labels")}


def _rows(answer: Answer, folder: Path) -> Any:
    return json.loads(answer.out.replace(str(folder), "HERE"))


def artefacts(bench: Bench) -> dict[str, Artefact]:
    """The kinds of artefact: an adapter, a run as reports read it, a grid, a trunk cache, a checkpoint."""
    caches = bench.work / "whole-cache"
    ask(*_settings(bench, bench.work / "filled", "--cache", caches))

    def with_cache(folder: Path) -> Answer:
        out = bench.work / "again"
        shutil.rmtree(out, ignore_errors=True)
        return ask(*_settings(bench, out, "--cache", folder))

    def resumed(folder: Path) -> Answer:
        return ask(*_settings(bench, folder, "--cache", "ram", "--resume"))

    unread = ("README.md", ".lock", "grid.lock", "log.txt", "report.html")
    return {
        "adapter": Artefact(
            bench.run / "adapter",
            lambda folder: ask("predict", folder, "--data", bench.data, "--json"),
            lambda answer, _: json.loads(answer.out)["predictions"],
            without=unread,
        ),
        "run folder": Artefact(
            bench.run,
            lambda folder: ask("report", folder, "--format", "md"),
            lambda answer, folder: answer.out.replace(str(folder), "HERE"),
            without=(*unread, "adapter.safetensors", "adapter.json"),
        ),
        "grid": Artefact(bench.grid, lambda folder: ask("grid", "ls", folder, "--json"), _rows, without=unread),
        "trunk cache": Artefact(caches, with_cache, _scores, recovers=True, without=unread),
        "checkpoint": Artefact(stopped(bench), resumed, _scores, without=unread),
    }


def stopped(bench: Bench) -> Path:
    """A run folder as a process leaves it that is stopped behind the checkpoint of its first epoch."""
    from stratatune.training import loop

    folder, plain = bench.work / "stopped", loop.save_checkpoint

    def then_stop(*given: Any, **how: Any) -> None:
        plain(*given, **how)
        raise KeyboardInterrupt

    loop.save_checkpoint = then_stop
    try:
        ask(*_settings(bench, folder, "--cache", "ram"))
    finally:
        loop.save_checkpoint = plain
    return folder


def try_artefact(kind: str, artefact: Artefact, bench: Bench, count: int, chance: int = 0) -> Damaged:
    """``count`` damages to the files of one artefact, every file in turn."""
    tally, place, draw = Damaged(kind), bench.work / "damaged", random.Random(chance)

    def fresh() -> Path:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(artefact.folder, place)
        return place

    whole = artefact.ask(fresh())
    assert whole.code == 0, f"{kind}: {whole.err}"
    right = artefact.seen(whole, place)
    for number in range(count):
        files = files_in(fresh(), without=artefact.without)
        path = files[number % len(files)]
        how = draw.choice(sorted(DAMAGES))
        content = path.read_bytes()
        damaged = DAMAGES[how](content, draw)
        if damaged == content:
            continue
        path.write_bytes(damaged)
        answer = artefact.ask(place)
        tally.tried += 1
        tally.slow += answer.slow
        tally.slowest = max(tally.slowest, answer.seconds)
        what = f"{path.relative_to(place)} {how}: {answer.err[-300:]}"
        if answer.faults:
            tally.faults.append(f"{answer.faults} {what}")
        elif answer.code:
            tally.refused += 1
            if artefact.recovers:
                tally.lost.append(what)
        elif artefact.seen(answer, place) != right:
            tally.believed.append(what)
        else:
            tally.harmless += 1
    return tally
