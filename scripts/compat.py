"""Run the whole suite with the oldest and with the newest libraries that pyproject.toml allows.

Each set of versions goes into an environment of its own under `.compat/`, which the next call uses again. torch, which
may bring gigabytes of CUDA with it, stays at the version of constraints.txt unless `--torch` names another. Python 3.11
and its standard library are all that is needed.

    python scripts/compat.py                                   # oldest, then newest
    python scripts/compat.py oldest --torch oldest             # torch at its lower bound too
    python scripts/compat.py newest --pin transformers==5.5.0  # one library changed
    python scripts/compat.py oldest --pytest "-k cache"        # some tests
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".compat"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
LINTERS = ("import-linter", "pyright", "ruff")  # the suite does not run them
REFERENCES = ("lightning", "sentence-transformers", "trl")
"""What some tests hold our numbers against, at its newest: their own requirements are newer than our lower bounds, so
these tests are skipped with the oldest libraries."""
_BOUND = re.compile(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?>=(?P<version>[\d.]+)")


def lower_bounds() -> dict[str, str]:
    """The libraries that the suite uses, as pyproject.toml declares them, and the oldest version that it allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *_of_extra("dev", project["optional-dependencies"])]
    found = {one["name"]: one["version"] for one in map(_BOUND.match, declared) if one}
    return {name: version for name, version in found.items() if name not in (*LINTERS, *REFERENCES)}


def _of_extra(name: str, extras: dict[str, list[str]]) -> Iterator[str]:
    """What an extra declares, and the extras that it names."""
    for one in extras[name]:
        if found := re.match(r"stratatune\[(.*)\]", one):
            for other in found[1].split(","):
                yield from _of_extra(other, extras)
        else:
            yield one


def pinned(name: str) -> str:
    """The version of ``name`` in constraints.txt."""
    return re.findall(rf"^{name}==([^; \n]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]


def pins_of(versions: str, torch: str, changed: list[str]) -> dict[str, str]:
    """The versions that an environment is held to: those of a set, of torch, and ``changed`` (``name==version``)."""
    bounds = lower_bounds()
    pins = {**bounds} if versions == "oldest" else {}
    pins |= {"torch": {"oldest": bounds["torch"], "pinned": pinned("torch")}.get(torch, torch)}
    if torch == "newest":
        del pins["torch"]
    return pins | dict(one.split("==") for one in changed)


def install(folder: Path, versions: str, pins: dict[str, str]) -> Path:
    """Make or bring up to date the environment in ``folder``; gives its interpreter.

    torch goes in first, since any other order lets a dependency choose a build of it.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-c", str(constraints)]
    subprocess.run([*pip, "torch"], check=True)
    asked = ["-e", ".", *(name for name in pins if name != "torch")] if versions == "oldest" else ["-e", ".[dev]"]
    subprocess.run([*pip, "--upgrade", "--upgrade-strategy", "eager", *asked], cwd=ROOT, check=True)
    return python


def installed(python: Path) -> dict[str, str]:
    """What the environment of ``python`` holds of the libraries that pyproject.toml declares."""
    asked = [str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    found = {_same(one["name"]): one["version"] for one in json.loads(subprocess.check_output(asked))}
    return {name: found.get(_same(name), "-") for name in lower_bounds()}


def _same(name: str) -> str:
    """A package's name as indexes compare it: rouge_score and rouge-score are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def tested(python: Path, options: list[str]) -> tuple[int, str]:
    """The exit code of the suite and its last line; what it prints is shown as it comes."""
    environment = {**os.environ, **OFFLINE, "PYTHONDONTWRITEBYTECODE": ""}  # as the Makefile has it
    line = [str(python), "-m", "pytest", "-q", *options]
    last = ""
    with subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as suite:
        assert suite.stdout is not None
        for printed in suite.stdout:
            print(printed, end="", flush=True)
            last = printed.strip() or last
    return suite.returncode, re.sub(r" in [\d.]+s.*", "", last)


def main() -> int:
    """Exit code 1 where a suite fails."""
    parser = argparse.ArgumentParser(description="Run the whole suite with the oldest and the newest libraries.")
    parser.add_argument("versions", nargs="*", choices=["oldest", "newest"], help="both, unless one is named")
    parser.add_argument("--torch", default="pinned", help="a version, oldest, newest, or pinned (constraints.txt's)")
    parser.add_argument("--pin", action="append", default=[], metavar="NAME==VERSION", help="hold one more library")
    parser.add_argument("--pytest", default="-n 2", help="options of pytest")
    asked = parser.parse_args()
    results: dict[str, tuple[dict[str, str], int, str]] = {}
    for versions in asked.versions or ["oldest", "newest"]:
        print(f"== {versions}", flush=True)
        python = install(ENVIRONMENTS / versions, versions, pins_of(versions, asked.torch, asked.pin))
        results[versions] = (installed(python), *tested(python, shlex.split(asked.pytest)))
    print(f"\n| | {' | '.join(results)} |\n|---|{'---|' * len(results)}")
    for name in lower_bounds():
        print(f"| {name} | {' | '.join(held[name] for held, *_ in results.values())} |")
    print(f"| tests | {' | '.join(said for *_, said in results.values())} |")
    return int(any(code for _, code, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main())
