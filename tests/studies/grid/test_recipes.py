"""The recipes of this repository: every one makes its runs, and every published number is the paper's."""

import json
from pathlib import Path

import pytest
from transformers import BertConfig, MPNetConfig

from stratatune.studies.grid.expand import expand
from stratatune.studies.grid.recipe import load_recipe, settled

FOLDER = Path(__file__).parents[3] / "recipes"
RUNS = {
    "bft-table1": 42,
    "bft-table2": 480,
    "bft-table3": 300,
    "bft-table7": 36,
    "bft-figure3": 24,
    "bft-figure4": 564,
    "spafit-table2": 270,
    "bft-table1-small": 42,
    "bft-table2-small": 66,
    "bft-table3-small": 60,
    "bft-table7-small": 48,
    "bft-figure3-small": 24,
    "bft-figure4-small": 66,
    "spafit-table2-small": 42,
    "bft-table2-base": 96,
    "bft-table7-base": 72,
    "bft-figure4-base": 138,
    "spafit-table2-base": 90,
}
GLUE = ("SST-2", "MNLI", "MRPC", "QNLI", "QQP", "RTE", "CoLA", "STS-B", "WNLI")
SMALL = [name for name in RUNS if name.endswith("-small")]
BASE = [name for name in RUNS if name.endswith("-base")]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The folders that the recipes name, with nothing in them but the models' configurations."""
    root = tmp_path_factory.mktemp("places")
    for folder in (
        *(f"glue/{name}" for name in GLUE),
        *(f"sentence/{name}" for name in ("TREC", "MPQA", "MR", "Subj")),
    ):
        (root / "data" / folder).mkdir(parents=True)
    (root / "data" / "glue" / "SST-2" / "train.tsv").touch()
    shape = {"num_attention_heads": 12, "hidden_size": 384, "intermediate_size": 1536}
    BertConfig(num_hidden_layers=6, **shape).save_pretrained(root / "models" / "minilm-mlm")
    for name in ("mpnet-base", "mpnet-mlm"):
        MPNetConfig(num_hidden_layers=12).save_pretrained(root / "models" / name)
    return {"data": str(root / "data"), "models": str(root / "models")}


def read(name):
    return load_recipe(FOLDER / f"{name}.yaml")


def test_all_are_listed():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(RUNS)
    listed = (FOLDER / "README.md").read_text()
    assert all(f"| `{name}` | {runs} |" in listed for name, runs in RUNS.items())


@pytest.mark.parametrize("name", RUNS)
def test_its_runs(name, places):
    recipe = read(name)
    runs = expand(recipe, FOLDER, data={root: places[root] for root in recipe.data})
    assert len({run.id for run in runs}) == len(runs) == RUNS[name]
    if name in SMALL + BASE:
        assert all(run.config.train_samples and run.config.train_samples <= 1000 for run in runs)


@pytest.mark.parametrize("name", SMALL)
def test_without_any_data(name, tmp_path):
    """As in a clone with nothing beside it: the packaged model and the sample sets."""
    recipe, notice = settled(read(name), tmp_path / "recipes" / f"{name}.yaml", {})
    assert "is missing" in notice
    runs = expand(recipe, tmp_path)
    assert {run.coordinates["model"] for run in runs} == {"all-MiniLM-L6-v2"}
    assert all(Path(run.config.train).is_file() for run in runs)


@pytest.mark.parametrize("name", BASE)
def test_on_the_real_models_and_data(name, shared, tmp_path):
    """The data are there; of the models, which a script makes, only the configurations."""
    for model in ("mpnet-base", "mpnet-mlm"):
        MPNetConfig(num_hidden_layers=12).save_pretrained(tmp_path / model)
    runs = expand(read(name), FOLDER, data={"data": str(shared / "data"), "models": str(tmp_path)})
    assert len(runs) == RUNS[name]
    assert all(Path(run.config.train).is_dir() for run in runs)


@pytest.mark.parametrize("name", BASE)
def test_a_base_one_checks_what_its_paper_says(name):
    """Every claim of the large recipe, though a plan or a depth has another name in twelve blocks."""
    large, base = read(name.removesuffix("-base")), read(name)
    assert len(base.claims) >= len(large.claims)
    assert [claim.margin for claim in base.claims[: len(large.claims)]] == [claim.margin for claim in large.claims]


@pytest.mark.parametrize("name", SMALL + BASE)
def test_a_smaller_one_types_no_number_of_the_paper(name):
    written = (FOLDER / f"{name}.yaml").read_text()
    assert "value:" not in written
    parent = read(name.removesuffix("-small").removesuffix("-base"))
    assert all(one in parent.published for one in read(name).published)


@pytest.fixture(scope="module")
def facts(shared):
    return json.loads((shared / "papers" / "facts.json").read_text())


def said(name):
    """The published numbers of a recipe by their coordinates."""
    return {
        (*sorted(map(str, one.where.values())), one.metric): (one.value, one.deviation) for one in read(name).published
    }


def of_scores(rows, *place):
    return {
        (*sorted((row["method"], task, *place)), None): (score, (row.get("std") or {}).get(task))
        for row in rows
        for task, score in row["scores"].items()
    }


def test_bft_tables_2_and_3(facts):
    bft = facts["bft"]
    assert said("bft-table2") == of_scores(bft["table2"])
    one, five = (of_scores(bft["table3"][f"{n} epoch{'s' * (n > 1)}"], str(n)) for n in (1, 5))
    assert said("bft-table3") == {**one, **five}


def test_bft_table_1(facts):
    units = {"K": 1e3, "M": 1e6}
    for row in facts["bft"]["table1"]:
        row["trained"] = round(float(row["tunable"][:-1]) * units[row["tunable"][-1]])
    rows, metrics = facts["bft"]["table1"], ("trained", "tokens_per_ms", "memory_gb")
    assert said("bft-table1") == {(row["method"], name): (row[name], None) for row in rows for name in metrics}


def test_bft_table_7(facts):
    columns = {"RTE": "RTE_acc", "MRPC": "MRPC_accF1", "SST-2": "SST2_acc"}
    assert said("bft-table7") == {
        (*sorted((row["behind"], task)), None): (row[column], None)
        for row in facts["bft"]["table7_unfreeze"]
        for task, column in columns.items()
    }


def test_spafit_table_2(facts):
    spafit = facts["spafit"]
    assert said("spafit-table2") == {
        (*sorted((row["method"], task)), None): (round(100 * score), None)
        for row in spafit["table2"]
        for task, score in zip(spafit["tasks"], row["scores"], strict=True)
    }


def test_the_papers_settings(facts):
    table6, spafit = facts["bft"]["table6_hyperparameters"]["prompt"], facts["spafit"]["hyperparameters"]
    for name in ("bft-table1", "bft-table2", "bft-table3", "bft-table7", "bft-figure3", "bft-figure4"):
        base = read(name).base
        assert (base["max_length"], base["batch_size"]) == (table6["max_seq_length"], table6["batch_size"])
        assert (base["lr"], base["weight_decay"]) == (table6["learning_rate"], table6["weight_decay"])
        assert base["warmup"] == table6["warmup_rate"]
    assert read("bft-table2").base["epochs"] == facts["bft"]["table2_epochs"]
    recipe = read("spafit-table2")
    assert (recipe.base["lr"], recipe.base["epochs"]) == (spafit["lr_peft"], spafit["epochs"])
    assert (recipe.base["batch_size"], recipe.base["weight_decay"]) == (spafit["batch_size"], spafit["weight_decay"])
    assert {item.settings.get("batch_size") for item in recipe.tasks if item.name in ("MNLI", "QNLI", "QQP")} == {8}
    assert next(item for item in recipe.plans if "lr" in item.settings).settings["lr"] == spafit["lr_full"]
