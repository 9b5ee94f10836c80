"""What a release needs: one version everywhere, workflows with no more rights than they use, files in the sdist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("tomllib", reason="scripts/release_check.py needs Python 3.11")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("release_check", ROOT / "scripts" / "release_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def workflow(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))


def test_one_version_everywhere(script):
    script.check_version(None)
    with pytest.raises(SystemExit, match="the tag names version 9.9.9"):
        script.check_version("v9.9.9")


def test_extras_and_what_they_bring(script):
    extras = script.PROJECT["optional-dependencies"]
    assert set(script.FOR_THE_TREE) < set(extras)
    assert any(one.startswith("jinja2") for one in script.brought_by("demo"))  # which names the extra report
    assert all(re.match(r"[\w-]+(\[[\w,]+\])?>=", one) for name in extras for one in script.brought_by(name))


def test_the_files_that_a_package_must_hold_are_there(script):
    assert all((ROOT / "src" / "stratatune" / name).is_file() for name in script.IN_WHEEL)
    assert all((ROOT / name).is_file() for name in script.IN_SDIST)


def test_publishing_needs_no_secret_and_happens_on_a_tag_alone():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert "secrets." not in text
    release = workflow("release")
    assert release[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` so
    assert release["permissions"] == {"contents": "read"}
    jobs = release["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"} and jobs["publish"]["needs"] == "build"
    assert "checkout" not in str(jobs["publish"])  # what is published is what was built and tried
    assert "attest-build-provenance" in str(jobs["build"]) and "release_check.py --tag" in str(jobs["build"])


def test_workflows_call_targets_that_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in ("ci", "release"):
        for job in workflow(name)["jobs"].values():
            for step in job["steps"]:
                for target in re.findall(r"\bmake ([\w-]+)", step.get("run", "")):
                    assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_citation():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(cited)
    assert cited["license"] == "Apache-2.0"
