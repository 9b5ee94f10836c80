"""A grid of many short runs, killed again and again at random: is each run trained once, and each cache built once?

    python -m benchmarks.grid_kill [--runs 200] [--kills 5] [--seed 0] [--jobs 1]

SIGKILL goes to the grid and to all its workers at once, at moments drawn at random over the grid. Afterwards the same
command runs to its end, and its folder is compared with that of one undisturbed grid: every run done, every epoch
in its log once, no finished run touched again, as many caches as there are trunks and data sets, every run fed from
them. Exit code 1 where that does not hold. The model is tests/tiny.py's, its data are made on the spot.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import gridding
from stratatune.cache.folders import list_caches
from stratatune.studies.grid.book import FILE, Store
from stratatune.studies.grid.records import RunRecord, read_records

EPOCHS = 3
DEPTHS = (1, 2)


def finished(out: Path) -> dict[str, int]:
    """The time at which each run folder's result was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}


def kill_at(count: int, line: list[str], out: Path, chance: random.Random) -> bool:
    """Begin the grid and kill it and its workers after the ``count``-th result; returns whether it still ran."""
    grid = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while grid.poll() is None and len(finished(out)) < count:
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 1.5))
    running = grid.poll() is None
    workers = Path(f"/proc/{grid.pid}/task/{grid.pid}/children").read_text().split() if running else []
    for process in [str(grid.pid), *workers]:
        os.kill(int(process), signal.SIGKILL)
    grid.wait()
    return running


def problems(out: Path, caches: Path, before: dict[str, int], asked: int) -> list[str]:
    """The differences from an undisturbed grid."""
    records = read_records(out)[1]
    found = [f"{asked - len(records)} runs are missing"] if len(records) != asked else []
    for record in records:
        found += [f"{record.id}: {what}" for what in _odd(record)]
    touched = [run for run, at in before.items() if (out / "runs" / run / "result.json").stat().st_mtime_ns != at]
    found += [f"{run}: was written again" for run in touched]
    infos = list_caches(caches)
    if len(infos) != 2 * len(DEPTHS) or not all(info.complete for info in infos):
        found.append(f"{len(infos)} caches, {sum(info.complete for info in infos)} complete, of {2 * len(DEPTHS)}")
    return found


def _odd(record: RunRecord) -> list[str]:
    epochs = [line["epoch"] for line in record.history]
    result = record.result or {}
    checks = {
        f"is {record.status}": record.status == "done",
        f"has the epochs {epochs}": epochs == list(range(1, EPOCHS + 1)),
        "ran its trunk itself": result.get("cache_hit") is True,
    }
    return [said for said, holds in checks.items() if not holds]


def main() -> int:
    """Kill, finish and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["STRATATUNE_CACHE"] = str(place / "caches")
        plans = [f"{name}@{depth}" for name in ("bft-adapter", "lpt") for depth in DEPTHS]
        seeds = list(range(options.runs // len(plans)))
        recipe = gridding.write_recipe(place, plans=plans, seeds=seeds, base={"epochs": EPOCHS})
        out, asked = place / "grid", len(plans) * len(seeds)
        line = [sys.executable, "-m", "stratatune", "grid", str(recipe), "--out", str(out), "--jobs", str(options.jobs)]
        started = time.perf_counter()
        when = sorted(chance.randrange(asked) for _ in range(options.kills))
        killed = [kill_at(count, line, out, chance) for count in when]
        before = finished(out)
        last = subprocess.run([*line, "--json"], capture_output=True, text=True, check=False)
        found = problems(out, place / "caches", before, asked)
        with Store.open(out) as store:
            starts = [row["starts"] for row in store.runs()]
        answer = {
            **{"runs": asked, "killed": sum(killed), "after_results": when, "seconds": time.perf_counter() - started},
            **{"starts": sum(starts), "begun_more_than_once": sum(count > 1 for count in starts)},
            **{
                "done_before_the_last": len(before),
                "last": json.loads(last.stdout),
                "book_bytes": (out / FILE).stat().st_size,
            },
            "problems": found,
        }
    print(json.dumps(answer, indent=2))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
