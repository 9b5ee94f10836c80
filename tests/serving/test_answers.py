"""What a server answers is what ``stratatune predict`` writes, and a trunk runs once for all tasks above it."""

import pytest

import tiny
from runs import rows, write_csv
from stratatune.app.predictions import output_of
from stratatune.serving.compute import Piece, answer
from stratatune.serving.table import TaskTable
from stratatune.training.forward import Forward
from stratatune.training.predict import Predictor

from .conftest import PLANS, TEXTS


def predicted(run, texts):
    return list(output_of(Predictor(run, device="cpu").predict(texts)).answers())


def assert_same(found, expected, near=2e-5):
    """The numbers are equal but for rounding: other texts were in the batch."""
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            if isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float)):
                assert value == pytest.approx(other[name], abs=near), name
            else:
                assert value == other[name]


def test_all_tasks_in_one_call(door, tuned):
    said = door.predict(TEXTS)
    assert (said.status, said.json["n"], list(said.json["answers"])) == (200, len(TEXTS), list(PLANS))
    for name, run in tuned.items():
        assert_same(said.json["answers"][name], predicted(run, TEXTS))


def test_one_task(door, tuned):
    said = door.ask("POST", "/tasks/lora/predict", {"texts": TEXTS[:3]})
    assert said.status == 200
    assert_same(said.json["answers"], predicted(tuned["lora"], TEXTS[:3]))


def test_more_texts_than_a_batch_holds(serve, tuned):
    texts = [f"{text} {number % 7}" for number, text in enumerate(TEXTS * 5)]
    said = serve(batch=8).predict(texts, ["words", "score"])
    for name in ("words", "score"):
        assert_same(said.json["answers"][name], predicted(tuned[name], texts))


def base_of(family, folder):
    """A tiny model of the family, saved."""
    if family == "llama":
        return tiny.save_tiny_decoder(folder, "llama", blocks=3)
    if family == "bart":
        tiny.tiny_encoder_decoder("bart", more=0).save_pretrained(folder)
        tiny.roberta_tokenizer().save_pretrained(folder)
        return folder
    return tiny.save_tiny(folder, family, "mlm")


GREAT = {"positive": "great", "negative": "terrible"}
KINDS = {
    "tags": ("bert", {"objective": "tags", "plan": "1: full"}),
    "label words": ("llama", {"objective": "causal", "plan": "2: lora", "label_words": GREAT}),
    "several tokens": (
        "llama",
        {"objective": "causal", "plan": "2: lora", "label_words": {**GREAT, "negative": "so bad"}},
    ),
    "decoder": ("llama", {"objective": "classification", "plan": "2: lora"}),
    "written": ("bart", {"objective": "seq2seq", "plan": "enc 0:2 frozen | enc 2: lora(rank=4) | dec 1: full"}),
    "vectors": ("roberta", {"objective": "vectors", "plan": "2: lora"}),
    "all frozen": ("bert", {"objective": "classification", "plan": "head(mlm=dense,norm,bias)"}),
    "nothing frozen": ("roberta", {"objective": "classification", "plan": "lora"}),
    "bf16": ("roberta", {"objective": "mlm", "plan": "bft-adapter@2", "precision": "bf16"}),
    "int8": ("roberta", {"objective": "mlm", "plan": "bft-adapter@2", "cache_dtype": "int8"}),
}
SHARED = {"tags", "decoder", "vectors", "all frozen", "bf16", "int8"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task(kind, tmp_path):
    import stratatune as st

    family, settings = KINDS[kind]
    if kind == "tags":
        data = tmp_path / "train.conll"
        data.write_text("she O\nloves O\nred B-thing\nfilms I-thing\n\nthe O\nman B-person\nruns O\n\n" * 6)
    elif kind == "vectors":
        pairs = zip(rows(24, 0), rows(24, 1), strict=True)
        found = [{"anchor": one["text"], "positive": other["text"]} for one, other in pairs]
        data = write_csv(tmp_path / "train.csv", found)
    else:
        data = write_csv(tmp_path / "train.csv", rows(24, 0))
        settings = {**settings, "text": "text", "label": "label"}
    given = {**settings, "epochs": 1, "batch_size": 8, "cache": "ram", "device": "cpu", "max_length": 48}
    st.train(model=base_of(family, tmp_path / "base"), train=str(data), out=str(tmp_path / "it"), **given)
    table = TaskTable(0, device="cpu")
    task, same = table.add("it", str(tmp_path / "it")), table.add("same", str(tmp_path / "it"))
    shared = kind in SHARED if family != "llama" or kind == "decoder" else not sum(task.objective.branches)
    assert bool(task.trunk) == shared
    pieces = [Piece(TEXTS[:3], [task]), Piece(TEXTS[3:5], [task, same])]
    answer(pieces, table.trunks)
    assert [piece.error for piece in pieces] == [None, None]
    near = 5e-3 if kind in ("bf16", "int8") else 2e-5  # another rounding of a hidden state is a whole step of int8
    assert_same([row for piece in pieces for row in piece.rows["it"]], predicted(tmp_path / "it", TEXTS[:5]), near)


def test_the_trunk_runs_once_for_a_text(tuned):
    table = TaskTable(10**6, device="cpu")
    tasks = [table.add(name, run) for name, run in tuned.items()]
    lora, score = tasks[1:]
    (trunk,) = table.trunks.values()
    answer([Piece(TEXTS[:4], [lora]), Piece(TEXTS[:4], [score]), Piece(TEXTS[2:6], [lora, score])], table.trunks)
    assert (trunk.computed, trunk.asked) == (len(set(TEXTS[:6])), 16)
    before = trunk.computed
    answer([Piece(TEXTS[:6], [lora])], table.trunks)  # they are remembered
    assert trunk.computed == before
    trunk.limit = 0
    trunk.trim()
    assert trunk.bytes == 0
    answer([Piece(TEXTS[:1], [lora])], table.trunks)
    assert trunk.computed == before + 1


def test_answers_do_not_depend_on_the_batch(tuned, monkeypatch):
    sizes, plain = list[int](), Forward.at_once

    def counted(self, hidden, batch, training):
        sizes.append(len(batch))
        return plain(self, hidden, batch, training)

    monkeypatch.setattr(Forward, "at_once", counted)
    table = TaskTable(10**6, device="cpu", eval_batch_size=2)
    texts = list(dict.fromkeys(TEXTS))[:5]
    piece = Piece(texts, [table.add("lora", tuned["lora"])])
    answer([piece], table.trunks)
    assert sizes == [2, 2, 1]
    assert_same(piece.rows["lora"], predicted(tuned["lora"], texts), 2e-5)


def test_vectors_of_pairs_and_of_texts_that_repeat(tmp_path):
    """Such data keep each text once, so what a trunk has not seen are texts, not examples."""
    import stratatune as st

    found = [{"anchor": a["text"], "positive": b["text"]} for a, b in zip(rows(24, 0), rows(24, 1), strict=True)]
    data = write_csv(tmp_path / "train.csv", found)
    given = {"epochs": 1, "batch_size": 8, "cache": "ram", "device": "cpu", "max_length": 48}
    base = base_of("roberta", tmp_path / "base")
    st.train(model=base, train=str(data), out=str(tmp_path / "it"), objective="vectors", plan="2: lora", **given)
    table = TaskTable(10**6, device="cpu")
    task = table.add("it", str(tmp_path / "it"))
    a, b, c, d = list(dict.fromkeys(TEXTS))[:4]
    # A text that is remembered comes twice before one that is not.
    for texts in ([a], [a, a, b], [(a, c), (c, d)], [b, b, d, c]):
        piece = Piece(texts, [task])
        answer([piece], table.trunks)
        assert piece.error is None
        assert_same(piece.rows["it"], predicted(tmp_path / "it", texts), 2e-5)


def test_a_trunk_forgets_what_was_not_asked_for_longest(tuned):
    table = TaskTable(10**6, device="cpu")
    task = table.add("lora", tuned["lora"])
    (trunk,) = table.trunks.values()
    sizes = []
    for text in TEXTS[:3]:
        answer([Piece([text], [task])], table.trunks)
        sizes.append(trunk.bytes)
    answer([Piece([TEXTS[0]], [task])], table.trunks)
    trunk.limit = trunk.bytes - 1
    trunk.trim()
    assert trunk.bytes == sizes[2] - (sizes[1] - sizes[0])
    before = trunk.computed
    answer([Piece([TEXTS[0]], [task])], table.trunks)
    assert trunk.computed == before


def test_a_piece_that_fails_fails_alone(tuned):
    table = TaskTable(0, device="cpu")
    task = table.add("lora", tuned["lora"])
    pieces = [Piece(TEXTS[:2], [task]), Piece(["\ud800"], [task]), Piece(TEXTS[2:3], [task])]
    answer(pieces, table.trunks)
    assert [piece.error is None for piece in pieces] == [True, False, True]
    assert_same(pieces[0].rows["lora"], predicted(tuned["lora"], TEXTS[:2]))
