"""Suggest: a signal planted at a known depth is found there, budgets leave plans out, and what is written trains."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM

import tiny
from stratatune.costs.time import Pace
from stratatune.errors import ConfigError, DataError, ModelError, NotFiniteError, ResourceError
from stratatune.plan import Plan, shape_of
from stratatune.progress import Reporter
from stratatune.studies.suggest.choosing import FEWEST_BLOCKS, find, texts
from stratatune.studies.suggest.pricing import Paces, RunSize, nearest_kept, price, within
from stratatune.studies.suggest.probing import Pass, Probe, _score, probe
from stratatune.studies.suggest.suggest import nothing_left, suggest
from stratatune.studies.suggest.suggestion import Asked
from stratatune.training.config import load_config, validate

FILLER = "the a film book story day night city person man woman she saw it was one two three red blue big old".split()
QUIET = Reporter(quiet=True)

PACES = Paces(Pace(0.0, 2e9), Pace(0.0, 1e9))


def rows(count=160, *, signal=True, seed=0):
    """Texts of filler; one word of each, somewhere in it, tells the label, unless there is no signal."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        words, label = chance.choices(FILLER, k=chance.randint(4, 9)), number % 2
        words.insert(chance.randint(0, len(words)), "great" if label and signal else "terrible" if signal else "fine")
        found.append({"text": " ".join(words), "label": ("no", "yes")[label], "score": label + chance.random()})
    return found


def table(count=160, **wanted):
    return Dataset.from_list(rows(count, **wanted))


def planted(folder, block, blocks=5, family="bert"):
    """A model in which no token learns of another, but for block ``block``, which gives every token the mean of all.

    The feed-forward parts are silent everywhere, so the position read first knows the label at depth ``block`` + 1.
    """
    model = tiny.tiny_bert("mlm", blocks=blocks)
    with torch.no_grad():
        for number, layer in enumerate(model.bert.encoder.layer):
            attention = layer.attention
            for part in (layer.output.dense, attention.output.dense, attention.self.query, attention.self.key):
                part.weight.zero_()
                part.bias.zero_()
            if number == block:
                attention.output.dense.weight.copy_(4 * torch.eye(32))
                attention.self.value.weight.copy_(torch.eye(32))
    model.save_pretrained(folder)
    tiny.tiny_tokenizer(family).save_pretrained(folder)
    return str(folder)


def asked(model, source="in-memory", **settings):
    given = {"model": model, "train": source, "text": "text", "label": "label", "device": "cpu", "batch_size": 16}
    return validate({**given, **settings})


def curve(values, error=0.01, control=0.5, reading="read"):
    return [
        Probe(depth, reading, value, error, control, error, (control + error,), around(value, error))
        for depth, value in enumerate(values)
    ]


def around(value, error):
    """Scores of five folds with this mean and this standard error."""
    return tuple(value + step * error * 2**0.5 for step in (-2, -1, 0, 1, 2))


@pytest.mark.parametrize("block", [0, 2, 4])
def test_a_signal_planted_at_a_depth_is_found_there(block, tmp_path):
    found = suggest(asked(planted(tmp_path, block)), Asked(family="bft"), tables={"train": table()}, reporter=QUIET)
    view = found.views[0]
    read = [one.score for one in view.probes if one.reading == "read"]
    assert max(read[: block + 1]) < 0.75 and min(read[block + 1 :]) > 0.95
    assert view.found.gathered.depth == block + 1
    assert found.plan == f"bft-adapter@{min(4, max(1, block))}"
    mean = [one.score for one in view.probes if one.reading == "mean"]
    assert min(mean) > 0.95  # the tokens themselves hold it from the embeddings on
    assert all(abs(one.control - 0.5) < 0.2 for one in view.probes)


def test_without_a_signal_the_papers_depth_stands(tmp_path):
    tables = {"train": table(signal=False)}
    found = suggest(asked(planted(tmp_path, 2)), Asked(family="bft"), tables=tables, reporter=QUIET)
    assert not found.views[0].found.informative
    assert found.plan == "bft-adapter@4"  # three quarters of five blocks
    assert "no depth predicts the labels" in found.why[0]


OTHER_TARGETS = {
    "vectors": (("anchor", "positive"), None, "whether two texts belong together"),
    "vectors of scores": (("sentence1", "sentence2"), [0.0, 0.5, 1.0], "the scores"),
    "rank": (("prompt", "chosen", "rejected"), None, "which text is the chosen one"),
    "rank of scores": (("query", "text"), [0, 1], "the scores"),
}


@pytest.mark.parametrize("case", OTHER_TARGETS)
def test_what_is_not_predicted_is_called_by_its_name(case, tmp_path):
    columns, scores, what = OTHER_TARGETS[case]
    chance = np.random.default_rng(0)
    texts = {name: [" ".join(chance.choice(FILLER, 6)) for _ in range(60)] for name in columns}
    data = texts if scores is None else {**texts, "score": chance.choice(scores, 60).tolist()}
    config = asked(planted(tmp_path, 2), text=(), label=None, objective=case.partition(" ")[0])
    found = suggest(config, Asked(family="lora"), tables={"train": Dataset.from_dict(data)}, reporter=QUIET)
    assert found.views[0].probed == what
    if not found.views[0].found.informative:
        assert f"no depth predicts {what} at " in found.why[0]
    assert "labels" not in found.why[0] and "targets in random order" in found.why[0]


def test_spafit_freezes_what_adds_nothing_and_starts_lora_at_the_depth(tmp_path):
    found = suggest(asked(planted(tmp_path, 3)), Asked(family="spafit"), tables={"train": table()}, reporter=QUIET)
    resolved = Plan.parse(found.plan).resolve(shape_of(str(tmp_path)))
    assert found.views[0].objective == "classification"
    assert resolved.frozen_depth == found.views[0].found.frozen
    lora = [number for number, block in enumerate(resolved.blocks) if any(one.kind == "lora" for one in block)]
    assert lora == [3, 4]


@pytest.mark.parametrize(("family", "plan"), [("full", "2: full"), ("lora", "2: lora(rank=16, alpha=32, on=attn,ffn)")])
def test_whole_blocks_train_from_the_top_or_from_further_down(family, plan, tmp_path, monkeypatch):
    """Five blocks: three train where the probes below say no more than the one there."""
    few = suggest(asked(planted(tmp_path, 3)), Asked(family=family), tables={"train": table()}, reporter=QUIET)
    assert few.depth == 1 and few.plan == plan.replace("2:", "1:", 1)
    assert any("rows are few" in line for line in few.why)
    assert any(line.endswith(" parameters train beside the new output layer") for line in few.why)
    monkeypatch.setattr("stratatune.studies.suggest.candidates.FEW", 0)
    found = suggest(asked(planted(tmp_path, 3)), Asked(family=family), tables={"train": table()}, reporter=QUIET)
    view = found.views[0]
    assert (found.plan, view.objective, found.depth) == (plan, "classification", 2)
    assert found.config.lr == 2e-3  # of a model 32 wide, at the upper end
    assert {one.frozen_depth for one in view.candidates} == {1, 2, 3, 4}
    given = suggest(asked(str(tmp_path), lr=5e-5), Asked(family=family), tables={"train": table()}, reporter=QUIET)
    assert given.config.lr == 5e-5


def test_more_blocks_train_where_the_top_loses_what_is_needed():
    whole = curve((0.5, 0.9, 0.7, 0.6, 0.6, 0.6), reading="read")
    assert find(whole, "full").depth == 1
    assert find(curve((0.5, 0.6, 0.7, 0.8, 0.9, 0.9)), "full").depth == 2


@pytest.mark.parametrize("family", ["full", "lora"])
def test_more_blocks_train_where_rows_are_few(family):
    rising = curve((0.5, 0.6, 0.7, 0.8, 0.9, 0.9))
    found = find(rising, family, few=True)
    assert (found.depth, found.frozen, found.few) == (1, 1, True)
    assert not find(rising, family).few and find(rising, "bft", few=True) == find(rising, "bft")
    lost = find(curve((0.5, 0.9, 0.7, 0.6, 0.6, 0.6), reading="read"), family, few=True)
    assert lost.depth == 1 and not lost.few  # the probes say so themselves


def test_any_takes_the_cheaper_where_both_read_alike(tmp_path):
    found = suggest(asked(planted(tmp_path, 1)), Asked(family="any"), tables={"train": table()}, reporter=QUIET)
    first, second = found.views
    assert {first.family, second.family} == {"bft", "spafit"}
    assert abs(first.found.best.score - second.found.best.score) < 0.01
    assert first.chosen.flops < second.chosen.flops
    assert found.plan == first.chosen.plan
    assert any(line.startswith(f"{second.family}, read at") for line in found.why)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_decoder_is_read_at_its_last_token(name, tmp_path):
    tiny.save_tiny_decoder(tmp_path, name)
    found = suggest(asked(str(tmp_path)), Asked(family="bft", samples=64), tables={"train": table(80)}, reporter=QUIET)
    view = found.views[0]
    assert (view.objective, {one.reading for one in view.probes}) == ("causal", {"read"})
    assert view.feature_bytes == 64 * 5 * 32 * 4
    assert (found.samples, found.rows) == (64, 80)


def test_numbers_are_probed_by_correlation(tmp_path):
    config = asked(planted(tmp_path, 1), label="score", objective="regression")
    found = suggest(config, Asked(family="spafit"), tables={"train": table()}, reporter=QUIET)
    best = found.views[0].found.best
    assert best.score > 0.8 and abs(best.control) < 0.3
    assert "Pearson" in found.why[0]


def test_budgets_leave_plans_out(tmp_path):
    model = planted(tmp_path, 1)
    free = suggest(asked(model), Asked(family="bft"), tables={"train": table()}, reporter=QUIET).views[0].candidates
    memory = (free[1].memory_bytes + free[2].memory_bytes) // 2  # of depths 2 and 3
    found = suggest(asked(model), Asked(family="bft", budget_memory=memory), tables={"train": table()}, reporter=QUIET)
    assert found.plan == "bft-adapter@3"
    assert [bool(one.over) for one in found.views[0].candidates] == [True, True, False, False, False]
    assert any("over the budget" in line for line in found.why)
    assert any(line.endswith(" parameters train") for line in found.why)  # the LM head is counted with them
    with pytest.raises(ConfigError, match="even bft-adapter@5 takes"):
        suggest(asked(model), Asked(family="bft", budget_memory=1000), tables={"train": table()}, reporter=QUIET)


def test_a_checkpoint_in_half_precision_takes_half_the_memory(tmp_path):
    """What is frozen stays as it is stored, so a budget must not leave out what fits."""
    planted(tmp_path / "wide", 1)
    tiny.tiny_tokenizer("bert").save_pretrained(tmp_path / "half")
    AutoModelForMaskedLM.from_pretrained(tmp_path / "wide").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    wide, half = (
        suggest(asked(str(tmp_path / name)), Asked(family="bft"), tables={"train": table()}, reporter=QUIET).views[0]
        for name in ("wide", "half")
    )
    for one, other in zip(wide.candidates, half.candidates, strict=True):
        frozen = Plan.parse(one.plan).resolve(shape_of(str(tmp_path / "wide"))).total("mlm") - one.trainable
        # Norms, biases and positions are held in fp32.
        assert 1.8 * frozen < one.memory_bytes - other.memory_bytes <= 2 * frozen


def test_prices_are_the_cost_models():
    lengths, shape = np.array([5, 9, 12, 7] * 10), shape_of("bert-base-uncased")
    work = RunSize(lengths, rows=400, epochs=3, batch_size=8, objective="mlm", head="mlm", dtype="fp32", classes=2)
    priced = {d: price(f"bft-adapter@{d}", d, shape, work, PACES) for d in (3, 9)}
    assert priced[9].flops < priced[3].flops and priced[9].memory_bytes < priced[3].memory_bytes
    assert priced[9].cache_bytes == 10 * lengths.sum() * 768 * 4
    twice = price("bft-adapter@9", 9, shape, RunSize(lengths, 800, 3, 8, "mlm", "mlm", "fp32", 2), PACES)
    assert twice.flops == pytest.approx(2 * priced[9].flops)
    kept = [within(one, priced[9].seconds, None) for one in priced.values()]
    assert [bool(one.over) for one in kept] == [True, False]
    assert nearest_kept(kept, 3) == kept[1]
    assert nearest_kept(kept, 10) is None


@pytest.mark.parametrize("budget", [{"budget_seconds": 0.001}, {"budget_memory": 1_000_000}])
def test_what_no_plan_keeps_is_told_by_the_budget_that_was_asked_for(budget):
    """The quickest plan needs the most memory; seconds below ten have two digits."""
    shape, lengths = shape_of("bert-base-uncased"), np.array([5, 9, 12, 7])
    work = RunSize(lengths, rows=4, epochs=1, batch_size=8, objective="mlm", head="mlm", dtype="fp32", classes=2)
    one = price("bft-adapter@3", 3, shape, work, PACES)
    made = [replace(one, plan="quick", seconds=0.0123, memory_bytes=9_000_000)]
    made.append(replace(one, plan="small", seconds=12345.6, memory_bytes=5_000_000))
    wanted = Asked(**budget)
    view = SimpleNamespace(
        family="bft", candidates=[within(one, wanted.budget_seconds, wanted.budget_memory) for one in made]
    )
    said = {"budget_seconds": "quick takes 0.012 s of 0.001 s", "budget_memory": "small takes 5 MB of 1 MB"}
    assert nothing_left([view], wanted).errors == [f"budget: bft: even {said[next(iter(budget))]}"]
    assert "12,346 s of 0.001 s" in within(made[1], 0.001, None).over


@pytest.mark.parametrize(
    ("values", "depth"),
    [
        ((0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9), 3),  # gathered at 4
        ((0.5, 0.6, 0.7, 0.8, 0.895, 0.9, 0.9), 3),  # within one standard error of the best
        ((0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9), 1),
        ((0.5, 0.5, 0.5, 0.5, 0.5, 0.7, 0.9), 5),
        ((0.5, 0.51, 0.5, 0.49, 0.5, 0.51, 0.5), 4),  # nothing is told: three quarters
    ],
)
def test_the_rule(values, depth):
    assert find(curve(values)).depth == depth


@pytest.mark.parametrize("family", ["full", "lora", "bft", "spafit"])
@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 12])
def test_the_depth_of_the_rule_has_a_plan_on_every_model(family, blocks):
    if blocks < FEWEST_BLOCKS.get(family, 1):
        return
    shape = replace(shape_of("bert-base-uncased"), blocks=blocks)
    for values in ([0.5] * (blocks + 1), [0.9] * (blocks + 1), [0.5] * blocks + [0.9]):
        found = find(curve(values), family)
        plan = texts(family, found, 64, blocks, 2)[found.depth]
        assert Plan.parse(plan).resolve(shape).frozen_depth <= max(1, blocks - 1)


@pytest.mark.parametrize("family", ["full", "lora"])
def test_experts_stay_frozen(family):
    shape, found = shape_of("Mixtral-8x7B-v0.1"), find(curve([0.9] * 33), family)
    plan = texts(family, found, shape.hidden, shape.blocks, 2, experts=True)[found.depth]
    resolved = Plan.parse(plan).resolve(shape)
    assert not {place for one in resolved.blocks[-1] for place, _ in one.claims(shape)} & {"experts", "router"}


@pytest.mark.parametrize(("family", "plan"), [("full", "0: full"), ("bft", "bft-adapter@1"), ("any", "bft-adapter@1")])
def test_a_model_of_one_block(family, plan, tmp_path):
    model = planted(tmp_path, 0, blocks=1)
    for signal in (True, False):
        tables = {"train": table(80, signal=signal)}
        found = suggest(asked(model), Asked(family=family, samples=64), tables=tables, reporter=QUIET)
        assert found.plan == plan == found.chosen.plan
    with pytest.raises(ModelError, match="family: 'spafit' needs 2 blocks or more; this model has 1"):
        suggest(asked(model), Asked(family="spafit"), tables={"train": table()}, reporter=QUIET)


@pytest.mark.parametrize("family", ["full", "lora", "spafit"])
def test_blocks_that_share_weights_have_no_part_that_trains(family):
    line = f"family: '{family}' trains the blocks above a depth, and in this albert blocks share weights"
    with pytest.raises(ModelError, match=line) as caught:
        suggest(asked("albert-base-v2"), Asked(family), tables={"train": table(60)}, reporter=QUIET)
    assert caught.value.hint == 'take family="bft"'


def test_blocks_that_share_weights_take_an_insertion(tmp_path):
    from transformers import AlbertConfig, AlbertForMaskedLM

    tokenizer = tiny.tiny_tokenizer("bert")
    sizes = {"hidden_size": 32, "embedding_size": 16, "num_attention_heads": 4, "intermediate_size": 64}
    config = AlbertConfig(vocab_size=len(tokenizer), num_hidden_layers=4, max_position_embeddings=64, **sizes)
    AlbertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = suggest(asked(str(tmp_path)), Asked("any"), tables={"train": table(60)}, reporter=QUIET)
    assert found.family == "bft" and len(found.views) == 1
    Plan.parse(found.plan).resolve(shape_of(str(tmp_path)))


def test_the_frozen_part_ends_where_the_mean_begins_to_rise():
    probes = [*curve((0.5, 0.6, 0.7, 0.8, 0.9)), *curve((0.7, 0.7, 0.705, 0.75, 0.8), reading="mean")]
    assert find(probes).frozen == 2


def test_the_probe_against_its_parts():
    """Depth 1 holds the class, depth 0 noise; the folds and the control come from the seed alone."""
    random_, labels = np.random.default_rng(0), np.arange(90) % 3
    features = random_.normal(size=(90, 2, 1, 6)).astype(np.float32)
    features[:, 1, 0, :3] += 6 * np.eye(3, dtype=np.float32)[labels]
    given = Pass(features, ("read",), 0.0)
    blind, seeing = probe(given, labels, seed=1, reporter=QUIET)
    assert abs(blind.score - 0.5) < 3 * blind.error + 0.1
    assert seeing.score > 0.99 and abs(seeing.control - 0.5) < 0.2
    assert [blind, seeing] == probe(given, labels, seed=1, reporter=QUIET)


def test_a_class_of_one_example_does_not_stop_it():
    labels = np.array([0, 1] * 30 + [2])
    features = np.random.default_rng(0).normal(size=(61, 1, 1, 4)).astype(np.float32)
    assert np.isfinite(probe(Pass(features, ("read",), 0.0), labels, seed=0, reporter=QUIET)[0].score)


def test_what_is_written_can_be_trained(tmp_path):
    import stratatune as st

    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
    out = tmp_path / "out"
    model = planted(tmp_path / "model", 2)
    found = st.suggest(model=model, train=data, text="text", label="label", out=str(out), epochs=1, device="cpu")
    assert found.config.lr == 2e-3  # that of so narrow a model
    assert json.loads((out / "suggestion.json").read_text())["plan"] == found.plan == "1: full"  # rows are few
    picture = (out / "suggestion.svg").read_text()
    ElementTree.fromstring(picture)
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "") and "prefers-color-scheme:dark" in picture
    config = validate(load_config(out / "run.yaml"))
    assert (config.plan, config.out, config.epochs) == (found.plan, str(out / "run"), 1)
    from stratatune.training.run import train

    assert train(config, reporter=QUIET).frozen_depth == 1


@pytest.mark.parametrize(
    ("settings", "wanted", "line"),
    [
        ({}, {"family": "bfd"}, "family: 'bfd'; did you mean 'bft'"),
        ({}, {"samples": 10}, "samples: 10; 40 or more"),
        ({}, {"budget_seconds": 0}, "budget_seconds: 0; must be more than 0"),
        ({}, {"budget_memory": "much"}, "budget_memory: 'much'; a number with a unit"),
        ({"plan": "lora"}, {}, "plan: 'lora'; suggest chooses the plan itself"),
    ],
)
def test_bad_input(settings, wanted, line, tiny_folder):
    import stratatune as st

    with pytest.raises(ConfigError) as raised:
        st.suggest(model=tiny_folder("bert"), train=table(), **settings, **wanted)
    assert raised.value.errors == [raised.value.errors[0]] and raised.value.errors[0].startswith(line)


def test_bad_data(tiny_folder, tmp_path):
    with pytest.raises(DataError, match="30 examples are too few to probe"):
        suggest(asked(str(tiny_folder("bert"))), Asked(family="bft"), tables={"train": table(30)}, reporter=QUIET)
    with pytest.raises(DataError, match="label"):
        suggest(
            asked(str(tiny_folder("bert")), label="lable"),
            Asked(family="bft"),
            tables={"train": table()},
            reporter=QUIET,
        )
    with pytest.raises(ModelError, match="free text"):
        tiny.save_tiny_decoder(tmp_path / "llama", "llama")
        config = asked(str(tmp_path / "llama"), objective="completion")
        suggest(config, Asked(family="bft"), tables={"train": table()}, reporter=QUIET)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of four trials, stopped in its second, and gone on with; gives (model, folder, suggestion)."""
    folder = tmp_path_factory.mktemp("search")
    model = planted(folder / "model", 1, blocks=4)
    config = asked(model, epochs=1, lr=3e-3)
    from stratatune.studies.suggest import refine as module

    trained, plain = [], module._Search._train

    def stopping(self, text, rate, rung):
        trained.append((text, rate, rung))
        if len({(text, rate) for text, rate, _ in trained}) == 2 and not (folder / "stopped").exists():
            (folder / "stopped").touch()
            raise KeyboardInterrupt
        return plain(self, text, rate, rung)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Search, "_train", stopping)
        given = {"tables": {"train": table(90)}, "folder": folder / "out", "reporter": QUIET}
        with pytest.raises(KeyboardInterrupt):
            suggest(config, Asked(family="bft", refine=True, trials=4), **given)
        found = suggest(config, Asked(family="bft", refine=True, trials=4), **given)
    return config, folder / "out", found, trained


def test_a_search_goes_on_and_starts_from_the_rule(searched):
    config, folder, found, trained = searched
    assert len(found.trials) == 4 and (folder / "refine.sqlite").exists()
    assert trained[0][0] == "bft-adapter@1" == found.views[0].chosen.plan
    assert trained[0][1] == 3e-3
    whole = [one for one in trained if one[2] == 9]
    assert len(whole) == len(set(whole)) < len({one[:2] for one in trained})  # some did not come to all rows
    best = found.trials[0]
    assert best["state"] == "complete" and (found.plan, found.config.lr) == (best["plan"], best["lr"])
    assert best["scores"]["9/9"] == max(one["scores"].get("9/9", 0) for one in found.trials)
    assert "trials by successive halving" in found.why[-1]
    assert [one.name for one in folder.iterdir()] == ["refine.sqlite"]


def test_a_search_deletes_only_what_it_made(tmp_path):
    """The folder may hold runs, one of which is called trial, and trunk caches."""
    folder = tmp_path / "runs"
    for name in ("trial", "cache"):
        (folder / name).mkdir(parents=True)
        (folder / name / "result.json").write_text("{}")
    config = asked(planted(tmp_path / "model", 1, blocks=4), epochs=1)
    wanted = Asked(refine=True, trials=1)
    suggest(config, wanted, tables={"train": table(90)}, folder=folder, reporter=QUIET)
    assert sorted(one.name for one in folder.iterdir()) == ["cache", "refine.sqlite", "trial"]
    assert all((folder / name / "result.json").exists() for name in ("trial", "cache"))


def test_a_search_over_other_data_is_another_one(tmp_path, points):
    """Data in memory have no name, and a file may change under its own."""
    config = asked(planted(tmp_path / "model", 1, blocks=4), epochs=1)
    given = {"folder": tmp_path / "out", "reporter": QUIET}
    data = {"train": table(90), "eval": table(20, seed=1)}
    suggest(config, Asked(refine=True, trials=1), tables=data, **given)
    assert len(suggest(config, Asked(refine=True, trials=2), tables=data, **given).trials) == 2
    for other in ({**data, "train": table(90, seed=2)}, {**data, "eval": table(20, seed=2)}):
        with pytest.raises(ConfigError, match="holds a search with other settings, data or base"):
            suggest(config, Asked(refine=True, trials=2), tables=other, **given)
    planted(tmp_path / "model", 2, blocks=4)  # other weights under the same name
    with pytest.raises(ConfigError, match="holds a search with other settings, data or base"):
        suggest(config, Asked(refine=True, trials=3), tables=data, **given)


def test_a_search_leaves_the_test_data_alone(tmp_path, monkeypatch):
    from stratatune.training import run

    results, plain = [], run.train
    monkeypatch.setattr(run, "train", lambda *given, **named: results.append(plain(*given, **named)) or results[-1])
    config = asked(planted(tmp_path / "model", 1, blocks=4), epochs=1)
    data = {"train": table(90), "eval": table(20, seed=1), "test": table(20, seed=2)}
    suggest(config, Asked(refine=True, trials=1), tables=data, reporter=QUIET)
    assert len(results) == 3 and all(one.best and not one.test for one in results)


def test_a_finished_search_trains_nothing_more(searched, monkeypatch):
    config, folder, found, trained = searched
    count = len(trained)
    given = {"tables": {"train": table(90)}, "folder": folder, "reporter": QUIET}
    again = suggest(config, Asked(family="bft", refine=True, trials=4), **given)
    assert len(trained) == count and again.trials == found.trials
    with pytest.raises(ConfigError, match="holds a search with other settings"):
        suggest(config.model_copy(update={"epochs": 2}), Asked(family="bft", refine=True, trials=4), **given)


def test_a_trial_that_diverges_is_passed_over(tmp_path, monkeypatch):
    """The rule's own plan does at its rate; where all do, that is what is told."""
    from stratatune.studies.suggest import refine as module

    config = asked(planted(tmp_path / "model", 1, blocks=4), epochs=1, lr=3e-3)
    fails = [lambda rate: rate == 3e-3, lambda rate: True]

    def trained(self, text, rate, rung):
        if fails[0](rate):
            raise NotFiniteError("the loss is nan in epoch 1, step 1, batch 1 of 2")
        return 0.5 + rate

    monkeypatch.setattr(module._Search, "_train", trained)
    given = {"tables": {"train": table(90)}, "reporter": QUIET}
    found = suggest(config, Asked(family="bft", refine=True, trials=3), **given, folder=tmp_path / "some")
    assert len(found.trials) == 2 and "the rule's own plan diverged" in found.why[-1]
    fails.pop(0)
    with pytest.raises(NotFiniteError, match="every trial of the search diverged"):
        suggest(config, Asked(family="bft", refine=True, trials=2), **given, folder=tmp_path / "all")


@pytest.fixture
def points(monkeypatch):
    """The (plan, rate, rung) of every trial's run, which scores without training."""
    from stratatune.studies.suggest import refine as module

    found = []
    monkeypatch.setattr(module._Search, "_train", lambda self, *point: found.append(point) or 0.5)
    return found


@pytest.mark.parametrize(("family", "lr"), [("full", 2e-5), ("lora", 0.05), ("full", None)])
def test_rates_are_drawn_around_the_usual_or_given_one(family, lr, tmp_path, points):
    config = asked(planted(tmp_path, 1, blocks=4), **({} if lr is None else {"lr": lr}))
    found = suggest(config, Asked(family=family, refine=True, trials=6), tables={"train": table(90)}, reporter=QUIET)
    usual = lr or 2e-3  # of a model 32 wide
    assert points[0][1] == usual
    assert all(usual / 10 <= rate <= usual * 10 for _, rate, _ in points) and len({rate for _, rate, _ in points}) > 4
    assert {one["plan"] for one in found.trials} <= {one.plan for one in found.views[0].candidates} or family != "full"


def test_a_search_with_a_budget_goes_on_though_the_machine_is_slower_now(tmp_path, points, monkeypatch):
    """The depths and widths of its first call stay: each call measures other seconds."""
    from stratatune.studies.suggest import suggest as module

    slower, folder = [2], tmp_path / "out"
    monkeypatch.setattr(
        module, "within", lambda one, *budgets: replace(one, over="2 s of 1 s" if one.depth < slower[0] else "")
    )
    config = asked(planted(tmp_path / "model", 1, blocks=6))
    given = {"tables": {"train": table(90)}, "folder": folder, "reporter": QUIET}
    folder.mkdir()
    (folder / "refine.sqlite").touch()  # of a call that was killed before its study began
    wanted = {"family": "bft", "refine": True, "budget_seconds": 1.0}
    first = suggest(config, Asked(**wanted, trials=2), **given)
    slower[0] = 4
    found = suggest(config, Asked(**wanted, trials=12), **given)
    assert len(first.trials) == 2 and len(found.trials) == 12
    depths = {one.frozen_depth for plan, *_ in points for one in [Plan.parse(plan).resolve(shape_of(config.model))]}
    assert min(depths) in (2, 3) and max(depths) == 5
    # Prices are those of the adapter; a late prompt adds tokens to every block above it.
    assert {
        one.kind for plan, *_ in points for _, one in Plan.parse(plan).resolve(shape_of(config.model)).insertions
    } == {"adapter"}
    with pytest.raises(ConfigError, match="holds a search with other settings"):
        suggest(config, Asked(**{**wanted, "budget_seconds": 9.0}, trials=12), **given)


def test_a_search_over_many_classes_draws_a_row_of_each(tmp_path):
    rows_ = [{**row, "label": f"c{number % 30}"} for number, row in enumerate(rows(180))]
    given = {"tables": {"train": Dataset.from_list(rows_)}, "reporter": QUIET}
    config = asked(planted(tmp_path, 1, blocks=4), epochs=1)
    wanted = {"family": "full", "refine": True, "trials": 1}
    assert len(suggest(config, Asked(**wanted, samples=90), **given).trials) == 1
    with pytest.raises(ConfigError, match="samples: 50;.*there are 50 classes") as raised:
        many = [{**row, "label": f"c{number % 50}"} for number, row in enumerate(rows(200))]
        given["tables"] = {"train": Dataset.from_list(many)}
        suggest(config, Asked(**wanted, samples=50), **given)
    assert raised.value.hint == "samples=51 or more"


def test_without_optuna_it_is_one_line(monkeypatch, tiny_folder):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ResourceError, match="refine=True needs optuna") as raised:
        suggest(
            asked(str(tiny_folder("bert"))), Asked(family="bft", refine=True), tables={"train": table()}, reporter=QUIET
        )
    assert "stratatune[search]" in raised.value.hint


def test_labels_without_a_meaning_rarely_pass():
    """One sample in 20 is expected to, whatever the number of depths that could."""
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 6, 1, 24)).astype(np.float32)
    features[:, 1:] += features[:, :-1]  # neighbouring depths are alike, as in a model
    given = Pass(features, ("read",), 0.0)
    labels = [random.integers(0, 2, 60) for _ in range(24)]
    passed = [find(probe(given, one, seed=0, reporter=QUIET)).informative for one in labels]
    assert sum(passed) <= 5


def test_the_area_is_that_of_sklearn():
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    truth, outputs = random.integers(0, 3, 50), random.normal(size=(50, 4)).round(1)  # ties; a class that is not there
    wanted = np.mean([roc_auc_score(truth == number, outputs[:, number]) for number in range(3)])
    assert _score(truth, outputs) == pytest.approx(wanted)
    sets = random.random((50, 4)) < 0.3
    wanted = np.mean([roc_auc_score(sets[:, number], outputs[:, number]) for number in range(4)])
    assert _score(sets, outputs) == pytest.approx(wanted)
    assert _score(np.zeros(5, int), outputs[:5, :1]) == 0.5
