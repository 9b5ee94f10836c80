"""Commands that are shown to be copied: a folder's name in them is one word of the shell, whatever it holds."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from stratatune.app.verbs.training import summary
from stratatune.errors import ModelError
from stratatune.shapes.configs import config_of
from stratatune.studies.report import report_on
from stratatune.training.result import Result

NAME = "run 'one' (März)"


def words(text: str) -> list[str]:
    """The words of the command that begins in ``text``, as a shell reads them."""
    return shlex.split(text[text.index("stratatune ") :].partition("`")[0])


def test_the_next_step_of_a_run_names_its_folder(trained):
    result = TypeAdapter(Result).validate_json((trained / "result.json").read_text(), extra="ignore")
    line = summary(replace(result, out=NAME)).splitlines()[-1]
    assert words(line) == ["stratatune", "predict", NAME, "--data", "FILE", "--out", "predictions.csv"]


def test_a_report_names_the_run_that_it_is_of(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / NAME)
    assert words(report_on(folder).made_by.partition(": ")[2]) == ["stratatune", "report", NAME]


@pytest.mark.parametrize("file", ["adapter.json", "adapter_config.json"])
def test_an_adapter_in_the_place_of_a_model_is_named(file, tmp_path):
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / file).write_text(json.dumps({}))
    with pytest.raises(ModelError) as caught:
        config_of(str(folder))
    said = caught.value.hint
    assert words(said)[-1 if "start-from" in said else 2] == str(folder)
