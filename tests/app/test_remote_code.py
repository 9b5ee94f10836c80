"""A file that lets a model bring its own code is not followed in silence; who asks for it in person is not told."""

from __future__ import annotations

import pytest

import gridding
from stratatune.app.cli import run as command

SAID = "sets trust_remote_code: true, so Python code that comes with"


@pytest.mark.parametrize(
    ("in_file", "arguments", "message"),
    [
        *(("true", [], True), ("false", [], False), ("false", ["--trust-remote-code"], False)),
        *(("true", ["--trust-remote-code"], False), ("true", ["--no-trust-remote-code"], False)),
    ],
)
def test_the_settings_of_a_run(tmp_path, capsys, in_file, arguments, message):
    (tmp_path / "run.yaml").write_text(f"model: {tmp_path}/none\ntrain: none.csv\ntrust_remote_code: {in_file}\n")
    (tmp_path / "none").mkdir()
    (tmp_path / "none.csv").write_text("text,label\na,b\n")
    arguments = [*arguments, "--train", str(tmp_path / "none.csv"), "--out", str(tmp_path / "out")]
    command(["train", str(tmp_path / "run.yaml"), *arguments])
    assert (SAID in capsys.readouterr().err) == message


@pytest.mark.parametrize("trusts", [True, False])
def test_a_recipe(tmp_path, capsys, trusts):
    recipe = gridding.write_recipe(tmp_path, base={"trust_remote_code": trusts})
    assert command(["grid", str(recipe), "--dry-run"]) == 0
    assert capsys.readouterr().err.count(SAID) == int(trusts)
