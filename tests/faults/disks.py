"""Disks that fill at every size, and folders that may not be written: what is asked again with room comes out right.

Needs the right to mount a small tmpfs (root on Linux); a file-size limit says less, since one file alone can hit it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults.asking import Answer, ask
from faults.malformed import Bench

Action = Callable[[Path, bool], Answer]


def may_mount() -> bool:
    """Whether this process may mount a tmpfs."""
    return sys.platform.startswith("linux") and os.geteuid() == 0 and shutil.which("mount") is not None


@contextlib.contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A tmpfs of a size at ``place``; gives what mounts it anew with other options."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(place)], check=True)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True) and None
    finally:
        subprocess.run(["umount", str(place)], check=True)


def actions(bench: Bench) -> dict[str, Action]:
    """What writes files: a run with its cache and checkpoints, predictions, reports, exports, settings, pictures."""
    data = ("--train", bench.data, "--eval", bench.data, "--text", "text", "--label", "label", "--epochs", 2)

    def train(place: Path, again: bool) -> Answer:
        own = ("--out", place / "run", "--cache", place / "cache", "--plan", "bft-adapter@2")
        return ask("train", "--model", bench.base, *data, *own, "--json", *(["--resume"] if again else []))

    merging = next(path for path in sorted((bench.grid / "runs").iterdir()) if path.is_dir())  # bitfit can be merged
    return {
        "train": train,
        "predict": lambda place, _: ask("predict", bench.run, "--data", bench.data, "--out", place / "out.csv"),
        "report": lambda place, _: ask("report", bench.run, "--out", place / "report.html"),
        "export": lambda place, again: ask(
            "export", merging, "--to", "merged", "--out", place / ("again" if again else "merged")
        ),
        "init": lambda place, _: ask("init", place / "run.yaml"),
        "plan": lambda place, _: ask("plan", "lora", "--model", "roberta-base", "--svg", place / "plan.svg"),
    }


def try_disks(bench: Bench, count: int) -> dict[str, Any]:
    """About ``count`` disks of growing size, each action in turn; then with room, and read-only."""
    total: dict[str, Any] = {"tried": 0, "lost": [], "believed": [], "slow": 0, "slowest": 0.0, "bad": []}
    place = bench.work / "disk"
    asked = actions(bench)
    for name, action in asked.items():
        with disk(place, 65_536) as remount:
            right = _seen(name, action(place, False), place)
            used = max(8, sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) // 1024)
            shutil.rmtree(place / "run", ignore_errors=True)
            remount("ro")
            _judge(f"{name}, read-only", action(place, False), total, must_fail=True)
        steps = max(1, count // len(asked))
        for number in range(steps):
            kilobytes = 4 + used * number // steps
            with disk(place, kilobytes) as remount:
                first = action(place, False)
                _judge(f"{name}, {kilobytes} kB", first, total)
                remount("size=65536k")
                again = action(place, name == "train" and (place / "run").exists() and first.code != 0)
                if first.code and (again.code or _seen(name, again, place) != right):
                    total["lost"].append(f"{name}, {kilobytes} kB: {again.err[-300:]}")
                if first.code == 0 and _seen(name, first, place) != right:
                    total["believed"].append(f"{name}, {kilobytes} kB")
    return total


def _judge(what: str, answer: Answer, total: dict[str, Any], *, must_fail: bool = False) -> None:
    total["tried"] += 1
    total["slow"] += answer.slow
    total["slowest"] = max(total["slowest"], answer.seconds)
    if answer.faults:
        total["bad"].append(f"{what}: {answer.faults} {answer.err[-300:]}")
    if must_fail and answer.code == 0:
        total["believed"].append(f"{what}: exit code 0")


def _seen(name: str, answer: Answer, place: Path) -> Any:
    """What an action came to, without its times."""
    if name == "train":
        return json.loads(answer.out).get("best") if answer.code == 0 else answer.err
    file = {"predict": "out.csv", "report": "report.html", "init": "run.yaml", "plan": "plan.svg"}.get(name)
    return (place / file).read_bytes() if file and (place / file).is_file() else answer.code
