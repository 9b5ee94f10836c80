"""A run that starts from another run's weights: what it takes, what begins new, and that it is otherwise a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import stratatune as st
import tiny
from runs import rows, write_csv
from stratatune.cache.feed import Feed
from stratatune.errors import ConfigError, ModelError
from stratatune.model.artefact import load_artefact
from stratatune.model.saving import read_record, read_tensors, save_adapter
from stratatune.progress import Reporter
from stratatune.training import loop
from stratatune.training.config import load_config, validate
from stratatune.training.predict import Predictor
from stratatune.training.prepare import Outline, read_tables
from stratatune.training.run import open_session, train
from stratatune.training.trials.many import train_many

STILL = {"epochs": 1, "lr": 1e-30, "weight_decay": 0.0}  # what is saved is what training started from
CLASSES = {"objective": "classification"}
PLANS = ("1: full", "full", "2: lora + bitfit", "spafit-0-1-II", "bft-adapter", "1: prefix", "prompt(tokens=3)")


def tensors(run):
    return read_tensors(Path(getattr(run, "out", run)) / "adapter")


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def first(run, tmp_path):
    """Gives ``first(**changes)``: the folder of a trained run to start from."""

    def make(**changes):
        out = tmp_path / "first"
        return run(**{**CLASSES, "plan": "2: lora + bitfit", **changes}, out=str(out)).out

    return make


@pytest.fixture
def lines(settings):
    """Gives ``lines(**changes)``: a run, and what it said about where it starts from."""

    def train_and_listen(**changes):
        reporter, found = Reporter(quiet=True), []
        reporter.say = reporter.notice = found.append
        result = train(settings(**changes), reporter=reporter)
        return result, [one for one in found if one.startswith(("start_from", "head_start"))]

    return train_and_listen


def taken(start, plan=None, **settings):
    """The settings of a run that starts from ``start``, whose plan is its own unless one is given."""
    return {"start_from": start, "plan": plan or read_record(Path(start) / "adapter")["plan"], **settings}


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS)
def test_training_begins_with_the_values_of_the_other_run(plan, first, lines, family):
    start = first(plan=plan, family=family)
    result, said = lines(**CLASSES, **taken(start), family=family, **STILL)
    count = len(tensors(start))
    assert same_bits(tensors(start), tensors(result))
    assert said == [f"start_from: {count} of {count} trained tensors begin as in {start}"]
    record, config = read_record(Path(result.out) / "adapter"), load_config(Path(result.out) / "config.yaml")
    digest = read_record(Path(start) / "adapter")["checksums"]["tensors"]
    assert record["started_from"] == {"run": start, "tensors": digest}
    assert config["start_from"] == start and config["plan"] == record["plan"]
    assert (
        f"| Started from | `{start}` (tensors {digest[:12]}) |" in (Path(result.out) / "adapter/README.md").read_text()
    )


def test_an_epoch_is_that_of_the_same_weights_put_in_by_hand(first, run, settings, tmp_path, monkeypatch):
    start = first()
    warm = run(**CLASSES, **taken(start), epochs=1, out=str(tmp_path / "warm"))
    plain = loop._begin

    def by_hand(session):
        spent = plain(session)
        values = tensors(start)
        for name, parameter in session.top.attached.trained().items():
            parameter.data.copy_(values[name])
        return spent

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_begin", by_hand)
        hand = run(**CLASSES, plan=load_config(Path(warm.out) / "config.yaml")["plan"], epochs=1)
    assert same_bits(tensors(warm), tensors(hand)) and not same_bits(tensors(warm), tensors(start))
    assert (Path(warm.out) / "metrics.jsonl").read_text() == (Path(hand.out) / "metrics.jsonl").read_text()


@pytest.mark.parametrize("plan", ["bft", "2: lora", "1: full"])
def test_the_cache_changes_no_number(plan, first, run, tmp_path):
    start, found = first(plan=plan, cache=str(tmp_path / "cache"), objective="auto"), {}
    for cache in ("off", "ram", str(tmp_path / "cache")):
        result = run(**taken(start), cache=cache, out=str(tmp_path / Path(cache).name / "run"))
        found[cache] = tensors(result)
        assert result.cache_hit == (cache not in ("off", "ram"))  # the trunk is the base's, as it was for the first run
    off = found.pop("off")
    for name, tensor in ((name, one[name]) for one in found.values() for name in one):
        torch.testing.assert_close(tensor, off[name], atol=2e-5, rtol=1e-4)
    assert same_bits(*found.values())


def test_what_is_saved_remembers_it_and_is_exported_with_it(first, run, tmp_path):
    start = first()
    result = run(**CLASSES, **taken(start), **STILL)
    model = load_artefact(result.out).model
    model.save_pretrained(tmp_path / "again")
    assert read_record(tmp_path / "again")["started_from"] == read_record(Path(result.out) / "adapter")["started_from"]
    # an adapter's folder without its run is a start too
    again = run(
        **CLASSES, **taken(result.out) | {"start_from": str(tmp_path / "again")}, **STILL, out=str(tmp_path / "3")
    )
    assert same_bits(tensors(again), tensors(start))


# --- plans and heads --------------------------------------------------------------------------------------------------


def test_another_plan_takes_what_both_train(first, lines):
    start = first(plan="1: lora")
    result, (said,) = lines(**CLASSES, start_from=start, plan="2: lora + bitfit", **STILL)
    was, now = tensors(start), tensors(result)
    both = was.keys() & now.keys()
    assert both and all(torch.equal(was[name], now[name]) for name in both)
    assert said.startswith(f"start_from: {len(both)} of {len(now)} trained tensors begin as in {start}; ")
    assert f"{len(now) - len(both)} tensors begin new, such as " in said
    assert f"{len(was) - len(both)} tensors of it do not train here and are left out, such as " in said
    assert now.keys() - was.keys() and was.keys() - now.keys()


def outputs_of(run):
    """The probabilities that a run gives to texts of its own."""
    predictor = Predictor(getattr(run, "out", run), device="cpu", precision="fp32")
    found = predictor.predict([one["text"] for one in rows(8, 9)]).probabilities
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("2: lora(rank=4, alpha=8)", "2: lora(rank=4, alpha=64)", "lora has alpha 8 there and 64 here"),
        ("2: dora(rank=4, alpha=8)", "2: dora(rank=4, alpha=2, dropout=0.1)", "dora has alpha 8 there and 2 here"),
        ("2: parallel(bottleneck=4, scale=1)", "2: parallel(bottleneck=4)", "parallel has scale 1 there and 4 here"),
    ],
)
def test_another_scale_begins_as_the_same_function(was, now, said, first, lines):
    start = first(plan=was, lr=0.05)
    result, (line,) = lines(**CLASSES, start_from=start, plan=now, **STILL)
    count = len(tensors(start))
    assert (
        line == f"start_from: {count} of {count} trained tensors begin as in {start}; {said}, so its change is rescaled"
    )
    assert not same_bits(tensors(start), tensors(result))
    np.testing.assert_allclose(outputs_of(result), outputs_of(start), atol=1e-6)


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("2: houlsby(bottleneck=4)", "2: parallel(bottleneck=4)", "houlsby there, parallel here"),
        ("2: lora", "2: dora", "lora there, dora here"),
        ("2: delta_bias(on=v)", "2: ia3(on=v)", "delta_bias there, ia3 here"),
        ("2: dora(rank=4)", "2: dora(rank=8)", "dora(rank=4, alpha=16) there, dora(rank=8, alpha=16) here"),
        (
            "late_prompt(depth=2, generator=appg)",
            "late_prompt(depth=2, generator=mppg)",
            "late_prompt(depth=2, generator=appg) there, late_prompt(depth=2, generator=mppg) here",
        ),
    ],
)
def test_what_another_method_made_is_not_taken(was, now, said, first, lines, run, tmp_path):
    start = first(plan=was)
    result, (line,) = lines(**CLASSES, start_from=start, plan=now, **STILL)
    cold = tensors(run(**CLASSES, plan=now, **STILL, out=str(tmp_path / "cold")))
    found, there = tensors(result), tensors(start)
    head = {name for name in found if name.startswith(("classifier", "bert.pooler"))}  # the checkpoint has no pooler
    assert line.startswith(f"start_from: {len(head)} of {len(found)} trained tensors begin as in {start}; ")
    assert line.endswith(f"; the methods differ: {said}")
    assert all(torch.equal(found[name], there[name]) for name in head)
    assert all(torch.allclose(found[name], cold[name], rtol=0, atol=1e-20) for name in found.keys() - head)


def test_a_bias_is_the_same_parameter_under_full_and_bitfit(first, lines):
    start = first(plan="2: full")
    result, (line,) = lines(**CLASSES, start_from=start, plan="2: bitfit", **STILL)
    was, now = tensors(start), tensors(result)
    assert all(torch.equal(was[name], now[name]) for name in now)
    assert line.startswith(f"start_from: {len(now)} of {len(now)} trained tensors begin as in ")


def test_a_pooler_that_the_other_run_has_is_not_called_new(first, settings):
    """The masked-LM checkpoint has none, so the first run begins with a new one."""
    said = dict[str, list[str]]()
    start = first(plan="2: full")
    for name, changes in (("cold", {"plan": "2: full"}), ("warm", taken(start)), ("other", taken(start, "3: lora"))):
        reporter, found = Reporter(quiet=True), said.setdefault(name, [])
        reporter.say = reporter.notice = found.append
        train(settings(**CLASSES, **STILL, **changes, out=f"{start}-{name}"), reporter=reporter)
    new = {name: [line for line in lines if "newly initialized" in line] for name, lines in said.items()}
    assert len(new["cold"]) == 1 and "bert.pooler.dense.weight" in new["cold"][0]
    assert new["warm"] == new["other"] == []


def test_one_tensor_is_said_in_the_singular(first, lines):
    start = first(plan="3: bitfit(on=q)")
    _, (line,) = lines(**CLASSES, start_from=start, plan="3: bitfit(on=k)", **STILL)
    assert "; 1 tensor begins new, such as " in line
    assert "; 1 tensor of it does not train here and is left out, such as " in line


def test_other_labels_begin_a_new_output_layer(first, lines, files, run, tmp_path):
    start = first(plan="2: full")
    three = {"train": str(files / "train3.csv"), "eval": str(files / "dev3.csv")}
    result, (said,) = lines(**CLASSES, **taken(start), **three, **STILL)
    cold = tensors(run(**CLASSES, plan="2: full", **three, **STILL, out=str(tmp_path / "cold")))
    was, now = tensors(start), tensors(result)
    head = {name for name in now if name.startswith("classifier")}
    # Drawn as without a start; from a bias of 0 even a rate of 1e-30 makes a step.
    assert head and all(torch.allclose(now[name], cold[name], rtol=0, atol=1e-20) for name in head)
    assert all(torch.equal(now[name], was[name]) for name in now.keys() - head)
    labels = "its labels are 'negative, positive', and here 'negative, neutral, positive'"
    assert said.endswith(f"; the output layer begins new: {labels}")


@pytest.mark.parametrize("head", ["classification", "multilabel"])
def test_the_rows_follow_the_order_of_the_labels(head, first, lines):
    start = first()
    folder = Path(start) / "adapter"
    loaded = load_artefact(start).model.attached
    loaded.spec["labels"] = list(reversed(loaded.spec["labels"]))
    save_adapter(loaded, folder)
    result, (said,) = lines(**{"objective": head}, **taken(start), **STILL)
    was, now = tensors(start), tensors(result)
    if head == "classification":
        assert said.endswith("; its output layer has the same labels in another order, so its rows are reordered")
        assert torch.equal(now["classifier.weight"], was["classifier.weight"].flip(0))
        assert torch.equal(now["classifier.bias"], was["classifier.bias"].flip(0))
    else:
        assert said.endswith("; the output layer begins new: it learnt classification, and this run learns multilabel")
        assert not torch.equal(now["classifier.weight"].abs(), was["classifier.weight"].flip(0).abs())


def test_another_head_begins_new(first, lines, tmp_path):
    """From label words to a new output layer: intermediate-task tuning."""
    start = first(plan="2: lora", objective="mlm")
    result, (said,) = lines(**CLASSES, **taken(start), **STILL)
    was, now = tensors(start), tensors(result)
    assert "the output layer begins new: it learnt mlm, and this run learns classification" in said
    assert all(torch.equal(now[name], was[name]) for name in was)


PAIRS = [{"anchor": f"was it {word}", "positive": f"a {word} story"} for word in ("good", "bad", "great", "red")]


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("first_learns", ["classification", "vectors"])
def test_a_model_without_a_head_and_one_with_a_head_start_from_each_other(first_learns, family, lines, run, tmp_path):
    """``vectors`` learns with the bare model, whose tensors have no ``bert.`` in front."""
    base = tiny.save_tiny(tmp_path / "base", "bert") if family == "bert" else None
    base = base or tiny.save_tiny_decoder(tmp_path / "base", family)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(f"{json.dumps(row)}\n" for row in PAIRS))
    kinds = {
        "classification": {**CLASSES, "model": str(base)},
        "vectors": {
            "objective": "vectors",
            "model": str(base),
            "train": str(pairs),
            "eval": None,
            "text": (),
            "label": None,
        },
    }
    start = run(**kinds.pop(first_learns), plan="2: lora", out=str(tmp_path / "first")).out
    (then,) = kinds.values()
    result, (said,) = lines(**then, **taken(start), **STILL)
    assert said.startswith("start_from: 8 of ")
    was, now = tensors(start), tensors(result)
    same = [(name, other) for name in was for other in now if name.endswith(other) or other.endswith(name)]
    assert len(same) == 8 and all(torch.equal(was[name], now[other]) for name, other in same)


@pytest.mark.parametrize("head_start", ["auto", "fitted"])
def test_a_head_that_was_taken_is_not_fitted(head_start, first, run, lines, files, tmp_path):
    start = first(plan="2: full", objective="multilabel")
    same, said = lines(objective="multilabel", **taken(start), **STILL, head_start=head_start)
    assert same_bits(tensors(same), tensors(start))
    assert said[1:] == [f"head_start: not fitted, since the output layer begins as in {start}"] * (head_start != "auto")
    other = {"train": str(files / "train3.csv"), "eval": str(files / "dev3.csv"), "out": str(tmp_path / "other")}
    drawn = tensors(run(objective="multilabel", **taken(start), **STILL, **other, head_start="drawn"))
    other["out"] = str(tmp_path / "fitted")
    fitted = tensors(run(objective="multilabel", **taken(start), **STILL, **other, head_start=head_start))
    assert not torch.equal(drawn["classifier.weight"], fitted["classifier.weight"])  # a new one is


# --- the settings -----------------------------------------------------------------------------------------------------


def test_plan_rate_and_model_are_those_of_the_other_run(first, settings, files, tmp_path):
    start = first(lr=0.002)
    data = {"train": str(files / "train.csv"), "start_from": start, "out": str(tmp_path / "run")}
    config = validate(data)
    assert (config.plan, config.lr) == (read_record(Path(start) / "adapter")["plan"], 0.002)
    assert Path(config.model).samefile(settings().model)
    assert validate({**data, "lr": 0.1}).lr == 0.1
    assert validate({**data, "plan": "2: lora"}).lr == 1e-3  # another plan has no rate of that run
    shutil.copytree(Path(start) / "adapter", tmp_path / "alone")
    assert validate({**data, "start_from": str(tmp_path / "alone")}).lr == 1e-3


def test_a_folder_whose_name_is_a_number(first, settings, tmp_path, monkeypatch):
    start = first()
    monkeypatch.chdir(tmp_path)
    Path(start).rename("5")
    config = validate({**settings().model_dump(exclude={"plan"}), "start_from": 5})
    assert (config.start_from, config.plan) == ("5", read_record(Path("5") / "adapter")["plan"])


def test_in_python_and_in_an_estimator(first, files, tmp_path):
    start = first(plan="2: full")
    own = {"start_from": start, "device": "cpu", "cache": "ram", "precision": "fp32", **STILL}
    result = st.train(train=str(files / "train.csv"), text="text", label="label", out=str(tmp_path / "run"), **own)
    assert same_bits(tensors(result), tensors(start))
    data = rows(16, 3)
    classifier = st.Classifier(**own, out=str(tmp_path / "fitted"))
    classifier.fit([one["text"] for one in data], [one["label"] for one in data])
    assert same_bits(tensors(tmp_path / "fitted"), tensors(start))


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_classifier_reads_the_stacks_of_the_run_that_it_starts_from(family, run, files, tmp_path):
    """Its own default model is not that of the run: an encoder-decoder would write the labels as text."""
    tiny.tiny_encoder_decoder(family, more=0).save_pretrained(tmp_path / "base")
    tiny.roberta_tokenizer().save_pretrained(tmp_path / "base")
    start = run(**CLASSES, model=str(tmp_path / "base"), plan="1: lora").out
    data = rows(16, 3)
    texts, labels = [one["text"] for one in data], [one["label"] for one in data]
    classifier = st.Classifier(start_from=start, device="cpu", cache="ram", **STILL).fit(texts, labels)
    assert classifier.result_.objective == "classification"
    assert {*classifier.predict(texts)} <= {*labels}


def test_trials_over_one_cache(first, settings, run, tmp_path):
    start = first()
    plan = read_record(Path(start) / "adapter")["plan"]
    common = {**settings(**CLASSES, **taken(start)).model_dump(mode="json"), "epochs": 1}
    trials = [{**common, "lr": lr, "out": str(tmp_path / f"{lr}")} for lr in (0.001, 0.003)]
    for together in ("never", "always"):
        results = train_many(trials, reporter=Reporter(quiet=True), together=together)
        for trial, result in zip(trials, results, strict=True):
            alone = run(**CLASSES, **taken(start, plan), epochs=1, lr=trial["lr"], out=str(tmp_path / "alone"))
            if together == "never":
                assert same_bits(tensors(result), tensors(alone))
            for name, tensor in tensors(alone).items():  # a step of Adam makes much of a rounded gradient near 0
                torch.testing.assert_close(tensors(result)[name], tensor, atol=1e-3, rtol=0)
            shutil.rmtree(result.out)
            shutil.rmtree(alone.out)
    results = st.train_many(
        **{name: common[name] for name in ("start_from", "train", "text", "label", "device", "cache", "epochs")},
        rates=[0.001, 0.003],
        out=str(tmp_path / "many"),
        reporter=Reporter(quiet=True),
    )
    assert {one.plan for one in results} == {plan}


def test_cut_and_packed_plans(first, lines, tmp_path):
    pytest.importorskip("bitsandbytes")
    start = first(plan="2: lora | cut(3)", pack="nf4")
    result, (said,) = lines(**CLASSES, **taken(start), pack="nf4", **STILL)
    assert same_bits(tensors(result), tensors(start)) and "left out" not in said
    with pytest.raises(ConfigError) as error:
        lines(**CLASSES, start_from=start, plan="2: lora", out=str(tmp_path / "whole"))
    assert error.value.message.endswith("its plan leaves 3 of 4 blocks, this run's 4 of 4 blocks; leave out plan")


def test_columns_with_tops_of_their_own_start_from_one_run(first, lines, tmp_path):
    start = first(plan="2: lora")
    objective = {"objective": "multitask(tops=label|score)", "label": "label,score"}
    lines(**objective, start_from=start, plan="2: lora", **STILL)
    for top in (tmp_path / "run" / "adapter").iterdir():
        if top.is_dir():
            found, was = tensors(top), tensors(start)
            assert all(torch.equal(found[name], was[name]) for name in found if not name.startswith("classifier"))
    with pytest.raises(ConfigError, match="has several tops"):
        lines(start_from=str(tmp_path / "run"), plan="2: lora", out=str(tmp_path / "next"))


# --- stopped and resumed ----------------------------------------------------------------------------------------------


class Stop(KeyboardInterrupt):
    """A user's Ctrl-C."""


def test_resumed_is_uninterrupted(first, run, settings, monkeypatch, tmp_path):
    start = first(plan="2: full")
    changes = {**CLASSES, **taken(start), "epochs": 3, "checkpoint_every": 2}
    whole = run(**changes, out=str(tmp_path / "whole"))
    seen, plain = [0], Feed.hidden

    def hidden(self, given):
        if given.labels is not None and len(given) == 8:
            if seen[0] == 9:
                raise Stop
            seen[0] += 1
        return plain(self, given)

    with monkeypatch.context() as patch:
        patch.setattr(Feed, "hidden", hidden)
        with pytest.raises(Stop):
            run(**changes)
    again = run(**changes, resume=True)
    assert same_bits(tensors(again), tensors(whole))
    assert (Path(again.out) / "metrics.jsonl").read_text() == (Path(whole.out) / "metrics.jsonl").read_text()
    assert read_record(Path(again.out) / "adapter")["started_from"]["run"] == start


def test_a_start_that_has_changed_since_is_named(first, run, monkeypatch, tmp_path):
    start = first()
    changes = {**CLASSES, **taken(start), "epochs": 2}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_judge", lambda *_: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            run(**changes, checkpoint_every=1)
    shutil.rmtree(start)
    first(seed=5)
    with pytest.raises(ConfigError, match="weights that it started from: changed since the run began"):
        run(**changes, checkpoint_every=1, resume=True)


def test_a_finished_run_needs_the_first_no_more(first, settings, files, tmp_path):
    start = first(lr=0.002)
    asked = {**settings(**CLASSES, **taken(start), epochs=1).model_dump(), "out": str(tmp_path / "second")}
    asked = {name: value for name, value in asked.items() if name not in ("plan", "lr", "model", "revision")}
    result = train(validate(asked), reporter=Reporter(quiet=True))
    shutil.rmtree(start)
    config = validate({**asked, "resume": True})
    assert train(config, reporter=Reporter(quiet=True)) == result and config.lr == 0.002
    for changes in ({}, {"resume": True, "out": str(tmp_path / "third")}, {"resume": True, "start_from": start + "x"}):
        with pytest.raises(ConfigError, match="no such file or folder"):
            validate({**asked, **changes})


# --- refusals ---------------------------------------------------------------------------------------------------------


def unfinished(start):
    shutil.rmtree(start / "adapter")


def damaged(start):
    path = start / "adapter" / "adapter.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def of_peft(start):
    (start / "adapter" / "adapter_config.json").write_text("{}")
    (start / "adapter" / "adapter.json").unlink()


def no_record(start):
    (start / "adapter" / "adapter.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "no such file or folder"),
        (unfinished, "the run in it is not finished; finish it with the same command and"),
        (damaged, "is damaged or was changed: its checksum differs; restore the folder from a backup"),
        (of_peft, "it holds an adapter of peft; convert it once with `stratatune export "),
        (no_record, "adapter.json is damaged: "),
        (lambda start: [shutil.rmtree(start), start.mkdir()], "holds no trained adapter (adapter.json is missing)"),
    ],
)
def test_a_folder_that_is_no_start(spoil, said, first, run, settings):
    start = first()
    changes = {**CLASSES, **taken(start)}
    spoil(Path(start))
    with pytest.raises(ConfigError) as error:
        run(**changes)
    assert error.value.errors[0].startswith(f"start_from: '{start}'; ") and said in error.value.errors[0]
    assert len(error.value.errors) == 1 and "\n" not in error.value.message


def test_another_base(first, run, tiny_folder):
    start = first()
    for changes, said in (
        ({"family": "roberta"}, "it was trained on '.*', a bert, and '.*' is a roberta; give the base model"),
        ({"model": str(tiny_folder("bert", "mlm", hidden_act="relu"))}, "hidden_act was gelu, and is relu in '.*'"),
        ({"model": str(tiny_folder("bert", "mlm", seed=7))}, "it was trained on '.*'; '.*' has other weights; give"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(**CLASSES, **taken(start), **changes)


def test_nothing_in_common(first, run):
    start = first(plan="3: bitfit")
    with pytest.raises(ConfigError, match="nothing of it can be taken: it trained 3: bitfit, and nothing of that"):
        run(objective="mlm", start_from=start, plan="2: lora")


def test_settings_that_do_not_go_together(first, settings, tmp_path):
    start = first()
    for changes, said in (
        ({"out": start}, "it is the folder of this run as well; give the new run a folder of its own with"),
        ({"start_from": f"{start}/adapter", "out": start}, "it is the folder of this run as well"),
        ({"plan": "auto"}, "plan: auto is chosen for the base model; leave out"),
        ({"start_from": ""}, "the path is empty"),
    ):
        with pytest.raises(ConfigError) as error:
            settings(**{**CLASSES, "start_from": start, **changes})
        assert said in error.value.errors[0], error.value.errors
    for name in (5, b"5"):
        with pytest.raises(ConfigError) as error:
            validate({**settings().model_dump(exclude={"plan"}), "start_from": name})
        assert [one for one in error.value.errors if one.startswith("start_from: '5'; ")] == error.value.errors
    with pytest.raises(ConfigError) as error:
        validate({"train": settings().train, "start_from": str(tmp_path / "nowhere")})
    assert error.value.errors == [f"start_from: '{tmp_path / 'nowhere'}'; no such file or folder"]
    with pytest.raises(ConfigError) as error:
        validate({"train": settings().train, "start_from": f"{start[:-1]}"})
    assert error.value.errors == [f"start_from: '{start[:-1]}'; no such file or folder; did you mean '{start}'?"]


def test_the_objectives_that_ask_the_base_still_ask_the_base(run, tmp_path):
    """An epoch 0 is the untuned base's, whatever the run starts from, and is not taken for this run's best."""
    pairs = [{"anchor": one["text"], "positive": one["text"] + " again"} for one in rows(24, 0)]
    data = str(write_csv(tmp_path / "pairs.csv", pairs))
    common = {"objective": "vectors", "text": ("anchor", "positive"), "label": None, "train": data, "eval": data}
    cold = run(**common, plan="2: lora", epochs=1, out=str(tmp_path / "cold"))
    warm = run(**common, plan="2: lora", start_from=cold.out, epochs=1, out=str(tmp_path / "warm"))

    def before(result):
        return json.loads((Path(result.out) / "metrics.jsonl").read_text().splitlines()[0])

    assert before(warm)["epoch"] == 0 and warm.best_epoch == 1
    for name, value in before(cold).items():
        assert before(warm)[name] == pytest.approx(value, abs=1e-5)


def test_it_is_the_session_that_knows(first, settings, tmp_path):
    start = first()
    config = settings(**CLASSES, **taken(start))
    Path(config.out).mkdir()
    outline = Outline(config)
    session, caching = open_session(
        outline, read_tables(config, {}, outline.kind), Path(config.out), Reporter(quiet=True)
    )
    caching.close()
    assert session.taken is not None and session.taken.output_layer and not session.starts_as_base


def test_what_reads_a_run_says_that_it_is_not_finished(first):
    start = Path(first())
    unfinished(start)
    with pytest.raises(ModelError, match=r"holds no trained adapter .*not finished: finish it .*resume"):
        Predictor(start)
