"""The verbs that need no model: what they say, as JSON and to people, and that they import no torch."""

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import pytest

HEAVY = ("torch", "transformers", "datasets", "sklearn", "accelerate")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([verb, "--help"] for verb in ("plan", "train", "eval", "predict", "list", "init", "cache", "grid", "bench")),
        *([verb, "--help"] for verb in ("report", "suggest", "demo", "serve", "doctor", "schema")),
        ["schema", "run"],
        ["schema", "recipe"],
        ["serve", "runs/one", "--queue", "0"],
        ["plan", "bft-adapter", "--model", "roberta-large", "--json"],
        ["list", "presets"],
        ["list", "tasks", "--json"],
        ["cache", "ls"],
        ["train", "--model", "roberta-base", "--train", "no/such/file.csv"],
    ],
    ids=" ".join,
)
def test_no_heavy_import(arguments):
    heavy = f"print(sorted({set(HEAVY)} & set(sys.modules)))"
    code = f"import sys; from stratatune.app.cli import run; run({arguments!r}); {heavy}"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_import_is_light():
    code = f"import sys, stratatune as st; st.Plan.parse('lora'); print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_imports_little():
    """Of the libraries that the package declares, only those that print the help: what keeps ``--help`` quick."""
    declared = {re.split(r"[^\w.-]", one)[0] for one in requires("stratatune") or () if "extra ==" not in one}
    modules = {name for name, held in packages_distributions().items() if declared & {one.lower() for one in held}}
    assert {"torch", "yaml", "sklearn", "typer", "rich"} <= modules
    code = "import sys; from stratatune.app.cli import run; run(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert modules.intersection(done.stdout.splitlines()[-1].split()) == {"typer", "rich"}


def test_plan(say):
    said = say("plan", "bft-adapter", "--model", "roberta-large", "--json")
    assert said.code == 0
    keys = "blocks frozen_depth trainable total strata flops_per_token speedup_vs_full cache_bytes_per_token".split()
    assert set(keys) <= set(said.json)
    assert (said.json["blocks"], said.json["frozen_depth"], said.json["trainable"]) == (24, 18, 1_137_769)
    assert said.err == ""


def test_plan_draws(say, tmp_path):
    said = say("plan", "bft-adapter", "--model", "roberta-large", "--svg", tmp_path / "plan.svg")
    assert "backward stops here" in said.out
    assert "\x1b[" not in said.out  # not a terminal
    assert (tmp_path / "plan.svg").read_text().startswith("<svg")


@pytest.mark.parametrize("objective", ["auto", "mlm", "classification", "regression"])
def test_plan_objective(say, objective):
    assert say("plan", "lora", "--model", "bert-base-uncased", "--objective", objective, "--json").code == 0


@pytest.mark.parametrize("kind", ["methods", "presets", "tasks", "backbones"])
def test_list(say, kind):
    said = say("list", kind, "--json")
    assert said.code == 0
    assert all({"name", "summary"} <= set(row) for row in said.json)
    shown = say("list", kind).out
    assert all(row["name"] in shown for row in said.json)


def test_init(say, tmp_path, monkeypatch):
    from stratatune.training.config import load_config, validate

    file = tmp_path / "run.yaml"
    assert say("init", file, "--json").json == {"out": str(file)}
    assert validate(load_config(file), check_files=False).plan == "auto"
    again = say("init", file)
    assert (again.code, again.error) == (2, f"{file} already exists")
    assert say("init", file, "--force").code == 0
    assert say("init", file / "no" / "run.yaml").code == 1
    other = tmp_path / "new" / "other.yaml"
    assert say("init", "--out", other, "--model", "bert-base-cased", "--json").json == {"out": str(other)}
    assert "model: bert-base-cased\n" in other.read_text()
    assert say("init", other, "--out", other, "--force").code == 0
    said = say("init", file, "--out", tmp_path / "third.yaml")
    assert said.code == 2 and said.error == f"out: {tmp_path / 'third.yaml'}; the file is named {file} already"
    assert not (tmp_path / "third.yaml").exists()
    monkeypatch.chdir(tmp_path / "new")
    assert say("init").code == 0 and (tmp_path / "new" / "run.yaml").is_file()


def test_version(say):
    import stratatune

    assert say("--version").out == f"stratatune {stratatune.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["plann"], "No such command 'plann'"),
        (["plan", "lora"], "Missing option '--model'"),
        (["plan", "lora", "--model", "roberta-base", "--tokens", "many"], "Invalid value for '--tokens'"),
        (["plan", "lorra", "--model", "roberta-base"], "unknown preset 'lorra'"),
        (["plan", "20:30 bitfit", "--model", "roberta-base"], "20:30"),
        (["plan", "lora", "--model", "roberta-bas"], "'roberta-bas' is neither a local folder"),
        (["plan", "lora", "--model", "roberta-base", "--objective", "mlmm"], "objective: 'mlmm'"),
        (["plan", "lora", "--model", "roberta-base", "--cache-dtype", "int3"], "int3"),
        (["list", "things"], "list: 'things'"),
        (["cache", "rm"], "no cache was named"),
        (["cache", "rm", "abc"], "0 trunk caches"),
        (["train"], "missing"),
        (["train", "nothing.yaml"], "nothing.yaml: no such file"),
        (["train", "--set", "lr"], "no value"),
        (["train", "--label-words", "good"], "'good' has no word"),
        (["predict", "run"], "predict needs data"),
        (["predict", "run", "--data", "x.csv", "--text", "body"], "--text is a text to predict, not the name of a col"),
        (["predict", "run", "--data", "-", "--out", "-", "--json"], "--json and --out -"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(say, arguments, error):
    said = say(*arguments)
    assert said.code == 2
    assert error in said.err
    assert "Traceback" not in said.err
    told = say(*arguments, "--json").json["error"]
    assert set(told) == {"message", "hint", "kind"}
    assert error in told["message"]


def test_all_mistakes_at_once(say):
    said = say(
        "train", "--model", "roberta-base", "--train", "no.csv", "--epochs", "0", "--precision", "fp17", "--json"
    )
    assert said.code == 2
    assert [line.split(":")[1].strip() for line in said.err.splitlines() if line.startswith("error")] == [
        "epochs",
        "precision",
        "train",
    ]


def test_closed_pipe():
    command = f"{sys.executable} -W error -m stratatune list presets | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].startswith("frozen")
    assert done.stdout.splitlines()[1] in ("0", "141")  # all was written before the reader left, or not


def test_usage_error_without_debug_option_is_json():
    done = subprocess.run(
        [sys.executable, "-m", "stratatune", "plan", "--json"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "MissingParameter"


def test_libraries_draw_no_bars_into_a_file():
    both = "transformers.logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()"
    code = f"from stratatune.app.cli import run; run(['list', 'presets']); import transformers, datasets; print({both})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False True"


@pytest.mark.parametrize(
    ("model", "objective", "trained"),
    [("gpt2", "causal", "causal"), ("t5-small", "seq2seq", "seq2seq"), ("roberta-base", "mlm", "mlm")],
)
def test_a_plan_counts_the_heads_that_the_model_has(say, model, objective, trained):
    found = say("plan", "bft-adapter", "--model", model, "--json").json
    assert found["objective"] == objective
    assert list(found["trainable_by_objective"]) == [trained, "classification"]
    assert found["trainable_by_objective"][trained] == found["trainable"]


def test_a_masked_lm_head_that_is_not_there_is_refused(say):
    said = say("plan", "bft-adapter", "--model", "gpt2", "--objective", "mlm")
    assert said.code == 2 and "objective mlm needs an encoder, and this model is a decoder" in said.err


def test_encoder_decoders_have_both_heads(say):
    rows = {row["name"]: row["summary"] for row in say("list", "backbones", "--json").json}
    for name in ("t5", "bart"):
        assert "language-model and classification heads" in rows[name]


@pytest.mark.parametrize(("plan", "near"), [("BFT", "bft"), ("Lora", "lora")])
def test_a_preset_in_capitals_is_understood(say, plan, near):
    assert f"did you mean {near!r}" in say("plan", plan, "--model", "roberta-base").err
