"""Build the wheel and the sdist, and try them in an empty environment: the commands, the files inside, every extra.

The wheel is built from the sdist, so both are whole. The environment is made in a new temporary folder. torch goes in
first, at the version of constraints.txt, as any other order lets a dependency choose a build of it.

    python scripts/release_check.py                  # everything
    python scripts/release_check.py report serve     # some of the extras
    python scripts/release_check.py --tag v0.2.0     # also that a tag names this version
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOR_THE_TREE = ("dev", "docs")  # what these bring is for work on the repository

IN_WHEEL = ("py.typed", "serving/page.html", "studies/report/page.html.j2", "samples/requests/train.csv")
IN_SDIST = ("pyproject.toml", "CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "tests/tiny.py", "mkdocs.yml")

_IMPORTS = """
import importlib, importlib.metadata, json, sys
brought = {}
for module, packages in importlib.metadata.packages_distributions().items():
    for package in packages:
        brought.setdefault(package.lower().replace("_", "-"), []).append(module)
for name in sys.argv[1:]:
    modules = [one for one in brought[name.lower().replace("_", "-")] if not one.startswith("_")]
    print(name, *[importlib.import_module(one).__name__ for one in modules if "-" not in one][:1])
"""
_USE = [
    ["--version"],
    ["plan", "bft-adapter", "--model", "roberta-large", "--json"],
    ["list", "exits", "--json"],
    ["schema", "run"],
]


def check_version(tag: str | None) -> None:
    """Whether all files name the same version, and the tag too where there is one."""
    version = PROJECT["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.findall(r"^## \[([^\]]+)\]", changes, re.MULTILINE)[0]
    cited = re.findall(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)[0]
    found = {"CHANGELOG.md": newest, "CITATION.cff": cited, **({"the tag": tag.removeprefix("v")} if tag else {})}
    for place, named in found.items():
        if named != version:
            sys.exit(f"{place} names version {named}, pyproject.toml {version}")
    if tag and f"## [{version}] - unreleased" in changes:
        sys.exit(f"CHANGELOG.md calls {version} unreleased: give its date")


def build(out: Path, python: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel made from it."""
    run(python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "build")
    run(python, "-m", "build", "--outdir", str(out), str(ROOT))
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def check_files(sdist: Path, wheel: Path) -> None:
    """Whether what must be inside is inside, and nothing that must not."""
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
    lacking = [name for name in IN_WHEEL if f"stratatune/{name}" not in inside]
    foreign = [name for name in inside if not name.startswith(("stratatune/", f"stratatune-{PROJECT['version']}"))]
    with tarfile.open(sdist) as archive:
        whole = {name.partition("/")[2] for name in archive.getnames()}
    lacking += [name for name in IN_SDIST if name not in whole]
    foreign += [name for name in (*inside, *whole) if name.endswith((".pyc", ".env")) or name.startswith("shared/")]
    if lacking or foreign:
        sys.exit(f"lacking: {lacking}, foreign: {foreign[:5]}")
    print(f"files: {len(inside)} in the wheel ({wheel.stat().st_size:,} bytes), {len(whole)} in the sdist")


def try_out(wheel: Path, folder: Path, extras: list[str]) -> None:
    """Install the wheel, run a few commands from an empty folder, then each extra in turn."""
    python, empty = environment(folder / "empty"), folder / "here"
    empty.mkdir()
    install(python, f"torch=={pinned('torch')}")
    install(python, str(wheel))
    for words in _USE:
        run(python, "-m", "stratatune", *words, cwd=empty)
    print("commands: " + ", ".join(words[0] for words in _USE))
    for extra in extras:
        install(python, f"stratatune[{extra}] @ {wheel.as_uri()}")
        names = [re.split(r"[\s<>=\[;]", one)[0] for one in brought_by(extra)]
        said = run(python, "-c", _IMPORTS, *names, cwd=empty)
        print(f"{extra}: {', '.join(line.split()[0] for line in said.splitlines())}", flush=True)
    found = json.loads(run(python, "-m", "stratatune", "doctor", "--json", cwd=empty))
    lacking = [one["name"] for one in found["extras"] if one["name"] in extras and not one["installed"]]
    if found["problems"] or lacking:
        sys.exit(f"doctor: {found['problems']}, not installed: {lacking}")
    print("doctor: no problems")


def brought_by(extra: str) -> list[str]:
    """What an extra brings, and the extras that it names."""
    found: list[str] = []
    for one in PROJECT["optional-dependencies"][extra]:
        if named := re.match(r"stratatune\[(.*)\]", one):
            found += [more for other in named[1].split(",") for more in brought_by(other)]
        else:
            found.append(one)
    return found


def pinned(name: str) -> str:
    """The version of ``name`` in constraints.txt."""
    return re.findall(rf"^{name}==([^; \n]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[0]


def environment(folder: Path) -> Path:
    """An empty environment; gives its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder / "bin" / "python"


def install(python: Path, what: str) -> None:
    """Install into an environment, held to constraints.txt."""
    options = ["-qq", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    run(python, "-m", "pip", "install", *options, what)


def run(python: Path, *words: str, cwd: Path | None = None) -> str:
    """Run the interpreter and give what it says; a failure ends the check with its last lines."""
    done = subprocess.run([str(python), *words], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed: python {' '.join(words)[:200]}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def main() -> None:
    """The whole check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", help="extras to try; all by default")
    parser.add_argument("--tag", help="the tag of a release")
    parser.add_argument("--out", type=Path, help="a folder that gets the wheel and the sdist")
    args = parser.parse_args()
    check_version(args.tag)
    extras = args.extras or [name for name in PROJECT["optional-dependencies"] if name not in FOR_THE_TREE]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist, wheel = build(folder / "dist", environment(folder / "builder"))
        check_files(sdist, wheel)
        try_out(wheel, folder, extras)
        if args.out:
            shutil.copytree(folder / "dist", args.out, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
