"""The long campaign against faults: malformed input, damage to every file, kills at every write, streams and disks.

    python -m benchmarks.faults                                   # 5,000 inputs, 1,000 damages, 500 kills: some hours
    python -m benchmarks.faults --malformed 70 --damages 50 --kills 0
    python -m benchmarks.faults --only "malformed recipe" --malformed 300

Prints a row a campaign (tried, lost, believed, bad answers, slow) and the faults found, and writes
``benchmarks/results/faults-<date>.json``. A bad answer is a traceback, a raw Python error, a message of more than ten
lines or an illegal exit code; slow is an answer after more than five seconds of processor time. Each campaign runs in a
separate process, so that an input that ends the process is counted too. The models are tiny and made on the spot.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
CHUNK = 250  # inputs to a process


def one(kind: str, count: int, chance: int) -> dict[str, object]:
    """Run one campaign in this process."""
    from faults.benching import make_bench
    from faults.damaging import artefacts, try_artefact
    from faults.disks import try_disks
    from faults.trying import try_kind

    what, _, name = kind.partition(" ")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STRATATUNE_CACHE"] = str(Path(folder) / "caches")
        (place := Path(folder) / "bench").mkdir()
        bench = make_bench(place)
        if what == "malformed":
            tally = try_kind(name, bench, count, chance)
            row: dict[str, object] = {
                "tried": tally.tried,
                "refused": tally.refused,
                "lost": [],
                "believed": [],
                "slow": tally.slow,
            }
            return {**row, "slowest": tally.slowest, "bad": list(tally.rows())}
        if what == "disks":
            return try_disks(bench, count)
        found = try_artefact(name, artefacts(bench)[name], bench, count, chance)
        return {
            "tried": found.tried,
            "refused": found.refused,
            "lost": found.lost,
            "believed": found.believed,
            "slow": found.slow,
            "slowest": found.slowest,
            "bad": found.faults,
        }


def kills(count: int) -> dict[str, object]:
    """Kill at every write that ``tests/faults/kills.py`` counts, and compare the continued run with an unkilled one."""
    from faults.killing import campaign

    return campaign(count)


def kinds() -> list[str]:
    from faults.disks import may_mount
    from faults.malformed import KINDS

    return [
        *(f"malformed {name}" for name in KINDS),
        *(f"damaged {name}" for name in ("adapter", "run folder", "grid", "trunk cache", "checkpoint")),
        *(["disks full"] if may_mount() else []),
    ]


def run(kind: str, count: int) -> dict[str, Any]:
    """Run one campaign in processes of at most ``CHUNK`` inputs; one that its input ends is a bad answer."""
    total: dict[str, Any] = {
        "tried": 0,
        "refused": 0,
        "lost": [],
        "believed": [],
        "slow": 0,
        "slowest": 0.0,
        "bad": [],
    }
    chunk = count if kind == "disks full" else CHUNK
    for chance, start in enumerate(range(0, count, chunk)):
        asked = [sys.executable, "-m", "benchmarks.faults", "--one", kind, str(min(chunk, count - start)), str(chance)]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=ROOT)
        lines = done.stdout.splitlines()
        if done.returncode or not lines:
            total["bad"] = [*total["bad"], f"{kind}: the process ended with {done.returncode}: {done.stderr[-500:]}"]
            continue
        found = json.loads(lines[-1])
        for name, value in found.items():
            total[name] = max(total[name], value) if name == "slowest" else total[name] + value
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--malformed", type=int, default=5000, help="inputs, over all kinds")
    parser.add_argument("--damages", type=int, default=1000, help="damages, over all artefacts")
    parser.add_argument("--disks", type=int, default=90, help="disks that fill; needs the right to mount")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--only", help="one campaign, such as 'malformed table'")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        warnings.simplefilter("ignore")
        print(json.dumps(one(given.one[0], int(given.one[1]), int(given.one[2]))))
        return
    names = [name for name in kinds() if given.only in (None, name)]
    rows = {}
    for name in names:
        group = [one for one in kinds() if one.split()[0] == name.split()[0]]
        asked = {"malformed": given.malformed, "damaged": given.damages, "disks": given.disks}
        count = -(-asked[name.split()[0]] // len(group))
        if count:
            rows[name] = run(name, count)
            _show(name, rows[name])
    if given.kills and not given.only:
        rows["kills"] = kills(given.kills)
        _show("kills", rows["kills"])
    today = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    out = ROOT / "benchmarks" / "results" / f"faults-{today}.json"
    out.write_text(json.dumps(rows, indent=1) + "\n")


def _show(name: str, row: dict[str, object]) -> None:
    counts = {key: len(value) if isinstance(value, list) else value for key, value in row.items()}
    print(f"{name:<24} " + "  ".join(f"{key} {value}" for key, value in counts.items()), flush=True)
    for key in ("bad", "lost", "believed"):
        for line in list(row[key])[:20]:  # pyright: ignore
            print(f"    {key}: {line!r:.700}", flush=True)


if __name__ == "__main__":
    main()
