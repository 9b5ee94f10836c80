"""An exit is one class and one registration: the command line, the list, the help and st.export then know it."""

import json

import pytest

import stratatune as st
import tiny
from stratatune.app.cli import run as command
from stratatune.errors import PlanError
from stratatune.exits.registry import EXITS, add_exit, exit_of


class Biases:
    """Writes trained biases as JSON."""

    name = "biases"
    summary = "the trained biases as JSON"
    extra = None
    whole = False
    reader = "json.load({out!r})"
    library = "json"

    def code(self, attached, base, place):
        return [f"biases = json.load(open('{place}/biases.json'))"]

    def refusals(self, attached):
        kinds = {one.kind for block in attached.resolved.blocks for one in block}
        return [f"{kind}: it is no bias" for kind in sorted(kinds - {"bitfit", "frozen"})]

    def write(self, model, tokenizer, folder):
        folder.mkdir()
        found = {name: tensor.tolist() for name, tensor in model.attached.trained().items() if name.endswith("bias")}
        (folder / "biases.json").write_text(json.dumps(found))


@pytest.fixture
def toy():
    add_exit(Biases())
    yield
    del EXITS["biases"]


@pytest.fixture
def adapter(tiny_folder, tmp_path):
    from transformers import AutoModelForSequenceClassification

    def saved(plan):
        base = tiny_folder("bert", "classification", labels=2)
        model = st.apply(AutoModelForSequenceClassification.from_pretrained(base), plan)
        model.attached.spec = {"objective": "classification", "labels": ["bad", "good"]}
        model.save_pretrained(tmp_path / "adapter")
        return str(tmp_path / "adapter")

    return saved


def test_the_command_line_writes_it(toy, adapter, tmp_path, capsys):
    assert command(["export", adapter("2: bitfit"), "--to", "biases", "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to"] == "biases"
    found = json.loads((tmp_path / "out" / "biases.json").read_text())
    assert found and all(name.endswith("bias") for name in found)
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'library_name: "json"' in card and "biases = json.load(open('out/biases.json'))" in card


def test_a_plan_that_it_cannot_hold_is_refused(toy, adapter, tmp_path, capsys):
    assert command(["export", adapter("2: lora"), "--to", "biases", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "cannot be exported to biases: lora: it is no bias" in said
    assert "it can be exported to: native, peft, merged, onnx" in said
    assert not (tmp_path / "out").exists()


def test_list_and_help_know_it(toy, capsys):
    assert command(["list", "exits", "--json"]) == 0
    assert "biases" in {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert command(["export", "--help"]) == 0
    assert "biases (the trained biases as JSON)" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_python_writes_it_and_the_model_stays(toy, tmp_path):
    model = st.apply(tiny.tiny_bert(), "2: bitfit")
    before = model.attached
    st.export(model, tmp_path / "out", to="biases")
    assert (tmp_path / "out" / "biases.json").is_file() and model.attached is before


def test_without_it_the_name_is_refused(tmp_path):
    with pytest.raises(PlanError, match="to: 'biases'") as caught:
        st.export(st.apply(tiny.tiny_bert(), "2: bitfit"), tmp_path / "out", to="biases")
    assert caught.value.hint == "legal: native, peft, merged, sentence-transformers, onnx"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("gguf", "convert_hf_to_gguf.py"), ("lora", "did you mean 'peft'?"), ("mergd", "'merged'")],
)
def test_names_of_other_tools_are_understood(name, hint):
    with pytest.raises(PlanError) as error:
        exit_of(name)
    assert hint in (error.value.hint or "")
