"""Tags: from files to entities, the same by every door, and equal under transformers' own pipeline."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tiny
from stratatune.app.cli import run as command
from stratatune.data.aligned import encode_words
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.data.tagged import WORDS, read_tagged
from stratatune.data.written import Written
from stratatune.objectives.asked import Asked
from stratatune.objectives.tags import Tags
from stratatune.plan import Plan
from stratatune.training.predict import Predictor

NAMES, PLACES = ("great", "good", "best"), ("bad", "worst")  # tokens of the tiny model


def _texts(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        words, tags = [], []
        for word in chance.choices(
            ("the", "film", "a", "night", "NAME", "PLACE", "she", "saw"), k=chance.randint(3, 14)
        ):
            if word == "NAME":
                name = [NAMES[0], chance.choice(NAMES[1:])][: chance.randint(1, 2)]  # each word has one tag
                words += [*name, "saw"]
                tags += [*["B-person", "I-person"][: len(name)], "O"]
            else:
                words.append(chance.choice(PLACES) if word == "PLACE" else word)
                tags.append("B-place" if word == "PLACE" else "O")
        found.append((words, tags))
    return found


def _conll(path: Path, texts: list[tuple[list[str], list[str]]]) -> Path:
    lines = ["\n".join(f"{word}\t{tag}" for word, tag in zip(*text, strict=True)) for text in texts]
    path.write_text("-DOCSTART-\tO\n\n" + "\n\t\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def conll(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conll")
    _conll(folder / "train.conll", _texts(40, 0))
    _conll(folder / "dev.conll", _texts(15, 1))
    return folder


@pytest.fixture
def tagged(run, conll, tmp_path):
    """Gives ``tagged(**changes)``: a run on the CoNLL files."""

    def make(**changes):
        own = {"train": str(conll / "train.conll"), "eval": str(conll / "dev.conll"), "text": (), "label": None}
        own |= {"objective": "tags", "plan": "1: full", "out": str(tmp_path / "tags"), "max_length": 64}
        return run(**{**own, **changes})

    return make


def test_it_trains_is_scored_saved_and_used(tagged, conll, tmp_path, tiny_folder):
    first = tagged(epochs=10, lr=0.01, cache=str(tmp_path / "cache"))
    assert first.objective == "tags" and first.labels == ["O", "B-person", "I-person", "B-place", "I-place"]
    assert first.best["f1"] > 0.8 and "tags are read as IOB2" in first.notices
    again = tagged(epochs=10, lr=0.01, cache=str(tmp_path / "cache"), out=str(tmp_path / "again"))
    assert again.cache_hit and again.best == first.best
    uncached = tagged(epochs=10, lr=0.01, cache="off", out=str(tmp_path / "off"))
    assert uncached.best["f1"] == pytest.approx(first.best["f1"], abs=1e-6)
    assert [one["label"] for one in first.by_class["evaluation"]["classes"]] == ["person", "place"]
    predictor = Predictor(tmp_path / "tags", device="cpu")
    scored = predictor.score(str(conll / "dev.conll"))
    assert scored["metrics"]["f1"] == pytest.approx(first.best["f1"], abs=1e-6)
    said = predictor.predict(["she saw good best"]).columns
    assert said["words"] == [["she", "saw", "good", "best"]] and len(said["tags"][0]) == 4
    for span in said["spans"][0]:
        assert "she saw good best"[span["start"] : span["end"]] == span["text"] and 0 < span["score"] <= 1


def test_what_leaves_is_equal_under_the_pipeline(tagged, tmp_path):
    from transformers import pipeline

    tagged(epochs=4, lr=0.01)
    out = tmp_path / "merged"
    assert command(["export", str(tmp_path / "tags"), "--to", "merged", "--out", str(out)]) == 0
    texts = ["she saw good best in the bad.", "worst, good; the film", "the night"]
    ours = Predictor(tmp_path / "tags", device="cpu").predict(texts).columns["spans"]
    theirs = pipeline("token-classification", model=str(out), aggregation_strategy="first", device="cpu")(texts)
    for mine, other in zip(ours, theirs, strict=True):
        shown = [(one["entity_group"], one["start"], one["end"]) for one in other]
        assert [(one["label"], one["start"], one["end"]) for one in mine] == shown
        assert [one["score"] for one in mine] == pytest.approx([float(one["score"]) for one in other], abs=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_windows_read_every_word_once(tiny_folder, side):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("bert", "mlm"), truncation_side=side)
    texts = [" ".join(words) for words, _ in _texts(12, 3)] + ["", "\u200d mary"]
    table = read_tagged(
        [text.split(" ") for text in texts], ReadOptions(need_labels=False, written=Written(bad_rows="empty"))
    )
    words = table.further[WORDS]
    whole = encode_words(texts, words, tokenizer, 512, 4)
    cut = encode_words(texts, words, tokenizer, 9, 4)
    assert len(cut.encoded) > len(whole.encoded) == len(texts) and "windows that overlap by 4" in cut.encoded.notices[0]
    total = sum(map(len, words))
    for one in (whole, cut):
        places = one.encoded.places
        assert places is not None and len(places.values) == total
        assert list(one.words[one.first]) == [n for n, place in enumerate(places.values) if place >= 0]
    assert tokenizer.truncation_side == side
    ids = [one.encoded.ids[one.words >= 0].tolist() for one in (whole, cut)]
    assert ids[0] == ids[1]  # in order, each token in one window


def test_alignment_is_that_of_word_ids(tiny_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("bert", "mlm"))
    rows = [words for words, _ in _texts(10, 5)] + [["wasn't", "unbelievable", "e-mail"]]
    table = read_tagged(rows, ReadOptions(need_labels=False))
    found = encode_words(table.texts[0], table.further[WORDS], tokenizer, 512, 4)
    theirs = tokenizer(rows, is_split_into_words=True)
    before = 0
    for row, words in enumerate(rows):
        cut = slice(*found.encoded.offsets[row : row + 2])
        assert found.encoded.ids[cut].tolist() == theirs["input_ids"][row]
        assert found.words[cut].tolist() == [-1 if word is None else before + word for word in theirs.word_ids(row)]
        before += len(words)


@pytest.mark.parametrize("align", ["first", "all"])
def test_windows_train_and_are_merged_again(tagged, conll, tmp_path, align):
    long = [(sum((one for one, _ in part), []), sum((tags for _, tags in part), [])) for part in [_texts(8, 7)] * 3]
    path = _conll(tmp_path / "long.conll", long)
    found = tagged(objective=f"tags(align={align}, stride=6)", eval=str(path), max_length=20)
    assert any("windows that overlap by 6" in notice for notice in found.notices) or found.best
    said = Predictor(tmp_path / "tags", device="cpu").predict(str(path))
    assert [len(tags) for tags in said.columns["tags"]] == [len(words) for words, _ in long]
    assert not any("cut" in notice for notice in said.table.notices)  # windows leave nothing out


def test_a_continued_word_turns_b_into_i(tiny_folder, tagged, tmp_path):
    tagged(objective="tags(align=all)", epochs=1)
    predictor = Predictor(tmp_path / "tags", device="cpu")
    path = _conll(tmp_path / "one.conll", [(["unbelievablymary", "saw"], ["B-person", "O"])])
    data = predictor.objective.encode(read_tagged(path), predictor.tokenizer)
    tags = [predictor.labels[number] for number in data.targets["label"].values if number >= 0]
    pieces = len(tags) - 1
    assert pieces > 1 and tags == ["B-person", *["I-person"] * (pieces - 1), "O"]


def test_the_command_line(tagged, conll, tmp_path, tiny_folder, capsys):
    tagged(epochs=1)
    capsys.readouterr()
    where = ["predict", str(tmp_path / "tags"), "--data", str(conll / "dev.conll"), "--device", "cpu"]
    for suffix in ("csv", "jsonl", "parquet"):
        assert command([*where, "--out", str(tmp_path / f"said.{suffix}")]) == 0
    row = json.loads((tmp_path / "said.jsonl").read_text().splitlines()[0])
    assert row["words"] == row["tokens"] and len(row["words"]) == len(row["given_tags"]) == len(row["tags"])
    again = read_tagged(tmp_path / "said.csv", ReadOptions(text=["tokens"], label="tags"))
    assert again.labels[0] == row["tags"]
    assert command(["predict", str(tmp_path / "tags"), "--text", "she saw mary", "--device", "cpu"]) == 0
    capsys.readouterr()
    model = str(tiny_folder("bert", "mlm"))
    assert command(["plan", "1: full", "--model", model, "--objective", "tags", "--labels", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == "tags"
    asked = ["--train", str(conll / "train.conll"), "--model", model, "--objective", "tags", "--device", "cpu"]
    assert command(["suggest", *asked, "--family", "bft", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["views"]


def test_labels_come_from_every_part(tagged, tmp_path):
    rare = _conll(tmp_path / "rare.conll", [(["the", "film"], ["O", "B-work"])])
    assert "B-work" in tagged(epochs=1, test=str(rare)).labels


def _table(*rows: str) -> Table:
    words = [[(0, 1)] * len(row.split()) for row in rows]
    return Table(([""] * len(rows),), labels=[row.split() for row in rows], further={WORDS: words})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("scheme", "train", "classes", "others"),
    [
        # Every word is in an entity: they are entities all the same, and new texts need an O.
        ("auto", "B-p E-p S-l", "O B-l I-l B-p I-p", {"S-p B-l E-l": "B-p B-l I-l"}),
        ("auto", "B-p I-p B-l", "O B-l I-l B-p I-p", {"B-l": "B-l"}),
        # Types alone: with an O in training they are entities, in whatever rows.
        ("auto", "p p O l", "O B-l I-l B-p I-p", {"l l": "B-l I-l", "O": "O"}),
        # Classes of words, of which `O` may be one.
        ("auto", "NN DT", "DT NN", {"NN": "NN"}),
        ("plain", "NN O DT", "O DT NN", {"O NN NN": "O NN NN"}),
    ],
)
def test_training_data_say_whether_there_are_entities(tiny_folder, scheme, train, classes, others):
    first, tables = _table(train), [_table(row) for row in others]
    asked = Asked(Plan.parse("full"), "encoder", 64, options={"scheme": scheme}, table=first, others=tuple(tables))
    objective, _ = Tags.settle(replace(asked, tokenizer=tiny.bert_tokenizer()))
    assert objective.tags == tuple(classes.split())
    again = Tags.from_data(json.loads(json.dumps(objective.to_data())), asked.tokenizer)
    for table, wanted in zip(tables, others.values(), strict=True):
        assert [again.tags[number] for number in again._numbers(table)] == wanted.split()
    output = np.array([[again.tags.index(tag), 0.5] for tag in wanted.split()])
    using = SimpleNamespace(output=lambda table: output)
    answer = again.answer(replace(table, texts=(["x"],)), using)
    assert answer.columns["tags"] == [wanted.split()] and ("spans" in answer.columns) == (
        classes != "DT NN" and scheme != "plain"
    )


def test_probes_read_one_word_of_each_text(tagged, conll, tmp_path):
    tagged(epochs=1)
    predictor = Predictor(tmp_path / "tags", device="cpu")
    data = predictor.objective.encode(read_tagged(conll / "dev.conll"), predictor.tokenizer)
    sample = predictor.objective.for_probes(data, 0)
    assert sample.labels is not None and len(sample) == 15 and (sample.labels > 0).any() and (sample.read > 0).all()
    for row in range(len(sample)):
        places = data.places.subset(np.array([row]))
        word = int(np.flatnonzero(places.values == sample.read[row])[0])
        assert data.targets["tags"].subset(np.array([row])).values[word] == sample.labels[row]
