"""``stratatune suggest`` on the command line: one JSON object, a table for people, one line for a mistake."""

from __future__ import annotations

import csv

import pytest


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    path = tmp_path_factory.mktemp("films") / "films.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(
            (f"a {'great' if n % 2 else 'terrible'} film {'and a book ' * (n % 3)}", n % 2) for n in range(60)
        )
    return path


def test_json(say, films, tiny_folder, tmp_path):
    model = ("--model", tiny_folder("bert"), "--device", "cpu", "--epochs", "2", "--family", "bft")
    said = say("suggest", *model, "--train", films, "--out", tmp_path / "out", "--json", "--quiet")
    assert said.code == 0, said.err
    assert said.json["plan"].startswith("bft-adapter@") and said.json["views"][0]["candidates"]
    assert set(said.json["files"]) == {"suggestion.json", "suggestion.svg", "run.yaml"}
    assert said.err == ""
    assert say("train", tmp_path / "out" / "run.yaml", "--json", "--quiet").json["epochs"] == 2


def test_people(say, films, tiny_folder):
    said = say(
        "suggest", "--model", tiny_folder("bert"), "--train", films, "--device", "cpu", "--budget-seconds", "1e6"
    )
    assert said.code == 0
    assert said.out.startswith("1: full\n") and "<-" in said.out and "a trunk of" in said.out
    assert "next:" in said.err and " --lr " in said.err


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--family", "bf"), "family: 'bf'; did you mean 'bft'"),
        (("--samples", "3"), "samples: 3; 40 or more"),
        (("--budget-memory", "many"), "budget_memory: 'many'"),
        (("--budget-memory", "1KB"), "budget: full: even "),
        (("--plan", "lora"), "plan: 'lora'; suggest chooses the plan itself"),
        (("--label", "lable"), "lable"),
        (("--trials", "4"), "trials: 4 is only used with --refine"),
    ],
)
def test_a_mistake_is_one_line(say, films, tiny_folder, options, line):
    said = say("suggest", "--model", tiny_folder("bert"), "--train", films, "--device", "cpu", "--quiet", *options)
    assert said.code == 2
    assert line in said.error


def test_a_file_of_init_and_data_in_memory(say, films, tiny_folder, tmp_path):
    import pandas

    import stratatune as st
    from stratatune.progress import Reporter
    from stratatune.training.config import load_config

    assert say("init", tmp_path / "run.yaml", "--model", tiny_folder("bert"), "--train", films).code == 0
    said = say("suggest", tmp_path / "run.yaml", "--device", "cpu", "--out", tmp_path / "out", "--json", "--quiet")
    assert said.code == 0, said.err
    assert said.json["plan"] == "1: full" and load_config(tmp_path / "out" / "run.yaml")["plan"] == "1: full"
    table = pandas.read_csv(films)
    given = {"model": tiny_folder("bert"), "device": "cpu", "reporter": Reporter(quiet=True), "text": "text"}
    found = st.suggest(train=table, eval=table, test=films, plan="auto", **given)
    assert found.plan == "1: full"
    assert "plan='1: full'" in repr(found) and all(f"{name}=" not in repr(found) for name in ("views", "config"))


def test_a_missing_file_is_one_line(say, tiny_folder):
    said = say("suggest", "--model", tiny_folder("bert"), "--train", "no/such/file.csv")
    assert said.code == 2 and "no such file" in said.error
