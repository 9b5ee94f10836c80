"""``stratatune report``, and the report that every run leaves."""

import sys

import pytest


def test_a_run_leaves_its_report(trained):
    page = (trained / "report.html").read_text()
    assert page.startswith("<!doctype html>") and page.count('<svg class="panel"') == 2


def test_report_of_a_run(say, trained, tmp_path):
    said = say("report", trained, "--out", tmp_path / "run.html", "--json")
    assert said.code == 0
    assert said.json["out"] == str(tmp_path / "run.html")
    assert (tmp_path / "run.html").read_text() == (trained / "report.html").read_text()


def test_markdown_goes_to_standard_output(say, trained):
    said = say("report", trained, "--format", "md", "--note", "On a train.")
    assert said.out.startswith("# bft-adapter@2 on films")
    assert "adapter(depth=2)" in said.out and "run folder films. On a train.\n" in said.out


@pytest.mark.parametrize(("format", "begins"), [("md", "# "), ("html", "<!doctype")])
def test_a_dash_is_standard_output(say, trained, tmp_path, monkeypatch, format, begins):
    monkeypatch.chdir(tmp_path)
    said = say("report", trained, "--format", format, "--out", "-")
    assert said.code == 0 and said.out.startswith(begins) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "begins"), [("run.md", "# "), ("run.TEX", "% "), ("run.htm", "<!doctype")])
def test_the_suffix_of_the_file_says_the_form(say, trained, tmp_path, name, begins):
    """Without --format a page of HTML was written into run.md."""
    assert say("report", trained, "--out", tmp_path / name).code == 0
    assert (tmp_path / name).read_text().startswith(begins)


def test_figures_go_beside_the_file(say, trained, tmp_path):
    said = say("report", trained, "--format", "latex", "--out", tmp_path / "run.tex", "--json")
    assert len(said.json["files"]) == 3
    assert (tmp_path / "run-figures" / "curve-0-train_loss.pdf").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("no/such/folder",), "no/such/folder: neither a run folder nor a grid folder"),
        ((".", "--format", "pdf"), "--format: 'pdf'"),
    ],
)
def test_bad_input(say, tmp_path, monkeypatch, arguments, error):
    monkeypatch.chdir(tmp_path)
    said = say("report", *arguments)
    assert (said.code, said.error) == (2, error)


def test_a_file_that_cannot_be_written(say, trained, tmp_path):
    (tmp_path / "no").write_text("a file")
    said = say("report", trained, "--out", tmp_path / "no" / "folder.html")
    assert (said.code, said.out) == (1, "")
    assert str(tmp_path / "no") in said.error
    assert say("report", trained, "--out", tmp_path / "new" / "folder.html").code == 0


def test_without_matplotlib(say, trained, data, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = say("report", trained)
    assert (said.code, said.error) == (1, "a report with figures needs matplotlib, which is not installed")
    assert 'pip install "stratatune[report]"' in said.err
    options = ("--text", "text", "--label", "label", "--epochs", 1, "--out", tmp_path / "run")
    said = say("train", "--model", tiny_folder("bert"), "--train", data, *options)
    assert said.code == 0
    assert "report.html: a report with figures needs matplotlib" in said.err


def test_runs_are_compared(say, trained, tmp_path, monkeypatch):
    import shutil

    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        shutil.copytree(trained, tmp_path / "runs" / name)
    together = say("report", "runs/one", "runs/two", "--json")
    assert together.code == 0 and together.json["out"] == "report.html"
    folder = say("report", "runs", "--json")
    assert folder.json["out"] == "runs/report.html" and folder.json["facts"] == together.json["facts"]
    assert folder.json["facts"]["runs"] == "2 of 2"
    assert "# one and two" in say("report", "runs/one", "runs/two", "--format", "md").out
