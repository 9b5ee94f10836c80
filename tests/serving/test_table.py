"""Tasks come and go, and what their models have in common is in memory once."""

import gc

import pytest

from stratatune.errors import ConfigError, ModelError
from stratatune.serving.names import named_run
from stratatune.serving.table import TaskTable

from .conftest import TEXTS, table_of


def weights(task):
    """The storage of each parameter, with its size."""
    model = task.predictor.model
    return {one.data_ptr(): one.nbytes for one in model.parameters()}


def test_frozen_weights_are_shared(tuned):
    table = TaskTable(0, device="cpu")
    words, lora = table.add("words", tuned["words"]), table.add("lora", tuned["lora"])
    own = {name: one.data_ptr() for name, one in lora.predictor.model.attached.trained().items()}
    fresh = {place: size for place, size in weights(lora).items() if place not in weights(words)}
    assert set(own.values()) <= set(fresh)
    # What is not shared is what trained, and the layer of a head that the other model does not have.
    frozen = sum(size for place, size in fresh.items() if place not in own.values())
    assert frozen < 0.1 * sum(weights(lora).values())


def test_weights_leave_with_their_last_task(tuned):
    table = TaskTable(0, device="cpu")
    first, second = table.add("one", tuned["lora"]), table.add("two", tuned["lora"])
    place = first.predictor.model.get_input_embeddings().weight.data_ptr()
    assert second.predictor.model.get_input_embeddings().weight.data_ptr() == place
    table.remove("one")
    del first
    gc.collect()
    third = table.add("three", tuned["score"])
    assert third.predictor.model.get_input_embeddings().weight.data_ptr() == place
    table.remove("two")
    table.remove("three")
    del second, third
    gc.collect()
    assert not table._shared._known and not len(table._shared.bases)
    assert not table.trunks


def test_one_base_is_read_and_verified_once(tuned, monkeypatch):
    from stratatune.model import artefact

    read, plain = [], artefact.load_base
    monkeypatch.setattr(artefact, "load_base", lambda name, *a, **more: (read.append(name), plain(name, *a, **more))[1])
    hashed, hash_of = [], artefact.Fingerprint.of
    monkeypatch.setattr(artefact.Fingerprint, "of", lambda backbone: (hashed.append(1), hash_of(backbone))[1])
    table = TaskTable(0, device="cpu")
    one, two, three = (table.add(name, tuned["lora"]) for name in ("one", "two", "three"))
    assert len(read) == 1 and len(hashed) == 1
    assert one.predictor.tokenizer is two.predictor.tokenizer is three.predictor.tokenizer
    own = set(two.predictor.model.attached.trained())
    for name, parameter in two.predictor.model.named_parameters():
        assert (parameter.data_ptr() in weights(one)) == (name not in own), name
    assert one.predictor.model is not two.predictor.model


def test_names(tuned):
    table = TaskTable(0, device="cpu")
    table.add("lora", tuned["lora"])
    with pytest.raises(ConfigError, match="task 'lora' exists"):
        table.add("lora", tuned["words"])
    with pytest.raises(ConfigError, match="there is no task 'lorra'"):
        table.remove("lorra")
    with pytest.raises(ModelError, match="no trained adapter"):
        table.add("other", "no/such/folder")
    with pytest.raises(ConfigError, match="task name"):
        table.add("a/b", tuned["lora"])
    assert list(table.tasks) == ["lora"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/films", "films"),
        ("runs/films/adapter", "films"),
        ("mine=runs/films", "mine"),
        ("runs/a=b/films", "films"),
    ],
)
def test_named_run(text, expected):
    assert named_run(text)[0] == expected


@pytest.mark.parametrize("text", ["my task=runs/films", "=runs/films", "runs/a b"])
def test_odd_names(text):
    with pytest.raises(ConfigError, match="task name"):
        named_run(text)


def test_hot_add_and_remove(serve, tuned):
    from stratatune.serving.keys import Keys

    door = serve(Keys(admins=("an-administrators-key",)), table_of(tuned))
    key = {"authorization": "Bearer an-administrators-key"}
    assert door.ask("PUT", "/tasks/more", {"run": tuned["lora"]}).status == 401
    assert door.ask("DELETE", "/tasks/words").status == 401
    said = door.ask("PUT", "/tasks/more", {"run": tuned["lora"]}, **key)
    assert (said.status, said.json["name"], said.json["trunk"]) == (201, "more", door.table.named("lora").trunk[:12])
    both = door.predict(TEXTS[:2], ["more", "lora"]).json["answers"]
    assert both["more"] == both["lora"]
    again = door.ask("PUT", "/tasks/more", {"run": tuned["lora"]}, **key)
    assert (again.status, again.error) == (422, "task 'more' exists")
    assert door.ask("PUT", "/tasks/odd", {"run": "no/such/run"}, **key).status == 422
    assert door.ask("DELETE", "/tasks/more", **key).status == 204
    assert door.ask("DELETE", "/tasks/more", **key).status == 404
    assert door.predict(TEXTS[:1], ["more"]).status == 404
    assert [task["name"] for task in door.ask("GET", "/tasks").json["tasks"]] == list(tuned)


def test_nobody_changes_tasks_without_an_administrators_key(door, tuned):
    said = door.ask("PUT", "/tasks/more", {"run": tuned["lora"]})
    assert (said.status, said.error) == (403, "tasks cannot be changed")
