"""Standard streams closed, full, or of an encoding without boxes: an answer is whole, or a line says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PLAN = "plan lora --model roberta-base"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of sh, in which ``st`` is the console script."""
    return subprocess.run(
        ["sh", "-c", line.replace("st ", f"{sys.executable} -m stratatune ", 1)],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
        text=True,
        encoding="utf-8",
        errors="replace",
    )


@pytest.mark.parametrize("where", [">&-", "--json >&-", "> /dev/full", "--json > /dev/full"])
def test_an_answer_that_cannot_be_written(where):
    done = shell(f"st {PLAN} {where}")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 2
    assert done.stderr.startswith("error: cannot write to standard output: ")


@pytest.mark.parametrize("where", ["2>&-", "2> /dev/full"])
def test_progress_that_cannot_be_written_hinders_nothing(where):
    done = shell(f"st {PLAN} --json {where}")
    assert done.returncode == 0 and json.loads(done.stdout)["blocks"] == 12
    assert shell(f"st {PLAN} --objective odd {where}").returncode == 2


def test_all_streams_closed():
    assert shell(f"st {PLAN} <&- >&- 2>&-").returncode == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_boxes(encoding):
    done = shell(f"st {PLAN}", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and "|####" in done.stdout and "\\u" not in done.stdout
    assert json.loads(shell("st list tasks --json", PYTHONIOENCODING=encoding).stdout)


def test_a_reader_that_leaves():
    done = shell("st list presets --json | head -c 10")
    assert done.returncode == 0 and not done.stderr


def test_predictions_are_not_written_as_something_else(trained):
    line = f"st predict {trained} --text '語 good' --out -"
    assert "語 good" in shell(line, PYTHONIOENCODING="utf-8").stdout
    done = shell(line, PYTHONIOENCODING="ascii")
    assert done.returncode == 1 and "standard output is ascii" in done.stderr and not done.stdout
