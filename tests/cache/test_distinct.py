"""Equal texts run once and are kept once, whichever way a cache is filled: counted in texts that the trunk runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from runs import rows, write_csv
from stratatune.cache.feed import Feed
from stratatune.cache.folders import list_caches
from stratatune.cache.keys import CacheKey
from stratatune.cache.store import TrunkCache
from stratatune.cache.trunks.filling import fill_pooled
from stratatune.cache.trunks.source import building_batches
from stratatune.data.distinct import Distinct
from stratatune.data.encoded import Encoded, Targets, offsets_of
from stratatune.model.saving import read_tensors
from stratatune.model.split import Trunk
from stratatune.progress import Reporter
from stratatune.training import generate
from stratatune.training.build import build_cache
from stratatune.training.predict import Predictor
from stratatune.training.run import train
from stratatune.training.trials.many import train_many

QUIET = Reporter(quiet=True)
WIDTH = 4
KEY = CacheKey("w", "tok", "", "data", 128, 2, "all", "fp32", (), "tiny")
SAME = Distinct(np.array([0, 1, 4]), np.array([0, 1, 0, 0, 2, 1]))
LENGTHS = np.array([2, 3, 2, 2, 5, 3])
TEXTS = 12  # distinct ones of `many`


def encoded(texts, **further):
    ids = [np.array(text, np.int32) for text in texts]
    lengths = np.array([len(text) for text in texts])
    read = further.pop("read", np.zeros(len(texts)))
    return Encoded(np.concatenate(ids), None, offsets_of(lengths), np.asarray(read, np.int32), **further)


def rows_of(index):
    """Rows that tell their text."""
    return torch.cat([torch.full((int(LENGTHS[i]), WIDTH), float(SAME.number[i])) for i in index])


# ---- which texts are equal ----


def test_what_makes_texts_equal():
    texts = [[1, 2], [1, 2, 3], [1, 2], [2, 1], [1, 2, 3]]
    found = encoded(texts).distinct
    assert found.first.tolist() == [0, 1, 3] and found.number.tolist() == [0, 1, 0, 2, 1]
    assert found.same.tolist() == [0, 1, 0, 3, 1] and found.repeated == 2 and found.many
    assert encoded(texts, read=[0, 1, 1, 0, 1]).distinct.number.tolist() == [0, 1, 2, 3, 1]
    places = Targets(np.array([0, 0, 1, 1, 0, 0, 1]), np.array([0, 1, 3, 4, 5, 7]))
    assert encoded(texts, places=places).distinct.number.tolist() == [0, 1, 2, 3, 1]
    assert encoded([[1], [2]]).distinct.repeated == 0 and not encoded([[1], [2]]).distinct.many
    assert not Distinct.of(()).many


def test_a_cache_of_repeated_texts_has_a_name_of_its_own():
    alone = encoded([[1, 2], [1, 2, 3]])
    assert alone.kept_as == alone.fingerprint
    assert encoded([[1, 2], [1, 2, 3], [1, 2]]).kept_as not in (alone.kept_as, encoded([[1], [2]]).kept_as)


def test_the_name_says_which_texts_are_equal():
    """Equal tokens that are read at other places are two texts, and rows are stored by their numbers."""
    texts = [[1, 2], [1, 2], [3, 4], [3, 4]]
    ones = [Targets(np.array(places), np.array([0, 1, 2, 3, 4])) for places in ([0, 0, 0, 1], [0, 1, 0, 0])]
    first, second = (encoded(texts, places=places) for places in ones)
    assert first.fingerprint == second.fingerprint and len(first.distinct.first) == len(second.distinct.first)
    assert first.kept_as != second.kept_as


# ---- the store ----


@pytest.mark.parametrize("place", ["disk", "ram"])
def test_examples_of_one_text_have_its_rows(tmp_path, place):
    root = tmp_path if place == "disk" else None
    with TrunkCache.open(root, KEY, LENGTHS, WIDTH, distinct=SAME) as cache:
        cache.put([2, 3, 1], rows_of([2, 3, 1]))  # the first two are one text
        assert cache.has(range(6)).tolist() == [True, True, True, True, False, True] and cache.missing() == 1
        cache.put([0, 4], rows_of([0, 4]))
        assert cache.complete and cache.bytes == (2 + 3 + 5) * WIDTH * 4
        assert torch.equal(cache.get([5, 0, 4, 3]), rows_of([5, 0, 4, 3]))
        assert cache.get_padded([0, 5]).shape == (2, 3, WIDTH)
        with pytest.raises(IndexError):
            cache.has([6])
    if root is None:
        return
    (info,) = list_caches(tmp_path)
    assert info.complete and info.examples == 3
    with TrunkCache.open(tmp_path, KEY, LENGTHS, WIDTH, distinct=SAME) as again:
        assert again.complete and torch.equal(again.get(range(6)), rows_of(range(6)))


def test_they_are_taken_from_another_cache(tmp_path):
    """As folds of a search do, where a text stands in several rows of each."""
    ran = []

    class Trunkless:
        trunk = None

        def __init__(self, cache):
            self.cache = cache

        def hidden(self, batch):
            ran.extend(batch.index.tolist())
            self.cache.put(batch.index, torch.ones(int(batch.mask.sum()), WIDTH))

        def flush(self):
            self.cache.flush()

    def filled(data, name):
        key = CacheKey("w", "tok", "", name, 128, 2, "all", "fp32", (), "tiny")
        cache = TrunkCache.open(tmp_path, key, data.lengths, WIDTH, distinct=data.distinct)
        taken = fill_pooled(Trunkless(cache), data, 0, torch.device("cpu"))  # pyright: ignore[reportArgumentType]
        assert cache.complete
        cache.close()
        return taken

    assert filled(encoded([[1, 2], [3], [1, 2]]), "one") == 0 and ran == [1, 0]
    assert filled(encoded([[3], [4], [3], [1, 2], [4]]), "two") == 2 and ran == [1, 0, 1]


def test_the_trunk_runs_over_each_once():
    batches = building_batches(encoded([[1], [2, 3], [1], [2, 3], [4, 5, 6]]))
    assert np.concatenate(batches).tolist() == [4, 1, 0]


# ---- whole runs ----


@pytest.fixture
def counted(monkeypatch):
    """The texts that the trunk has run, one number a call."""
    found, plain = [], Trunk.__call__

    def call(self, input_ids, *rest, **named):
        found.append(len(input_ids))
        return plain(self, input_ids, *rest, **named)

    monkeypatch.setattr(Trunk, "__call__", call)
    return found


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """48 training and 24 evaluation rows of twelve texts each."""
    folder = tmp_path_factory.mktemp("many")
    for name, seed, times in (("train", 5, 4), ("dev", 6, 2)):
        texts = {row["text"]: row for row in rows(200, seed)}
        write_csv(folder / f"{name}.csv", [*texts.values()][:TEXTS] * times)
    return folder


@pytest.fixture
def many_of(settings, many):
    return lambda **changes: settings(train=str(many / "train.csv"), eval=str(many / "dev.csv"), **changes)


@pytest.mark.parametrize("cache", ["ram", "folder", "auto"])
@pytest.mark.parametrize("plan", ["bft-adapter@2", "head"])
def test_a_run_runs_each_text_once(many_of, counted, tmp_path, monkeypatch, cache, plan):
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "root"))  # an empty one
    config = many_of(plan=plan, cache=str(tmp_path / "kept") if cache == "folder" else cache)
    result = train(config, reporter=QUIET)
    # To choose a cache, `auto` times the trunk on 1 and on 16 texts.
    assert sum(counted) == 2 * TEXTS + (17 if cache == "auto" else 0)
    assert not result.cache_hit and "cache" in result.seconds
    if cache == "folder":
        assert sorted(info.examples for info in list_caches(tmp_path / "kept")) == [TEXTS, TEXTS]
        again = train(config.model_copy(update={"out": str(tmp_path / "again"), "seed": 1}), reporter=QUIET)
        assert again.cache_hit and sum(counted) == 2 * TEXTS


def test_one_epoch_is_worth_a_cache_where_texts_repeat(many_of, counted, tmp_path, monkeypatch):
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "root"))
    train(many_of(plan="bft-adapter@2", cache="auto", epochs=1), reporter=QUIET)
    assert sum(counted) == 2 * TEXTS + 17


def test_few_repeats_are_kept_once_while_training(settings, tmp_path, counted):
    """One in 40: the first epoch trains while it writes."""
    made = [*{row["text"]: row for row in rows(400, 7)}.values()][:39]
    train_file = write_csv(tmp_path / "few.csv", [*made, made[0]])
    config = settings(train=str(train_file), eval=None, cache=str(tmp_path / "kept"), plan="bft-adapter@2")
    train(config, reporter=QUIET)
    assert 39 <= sum(counted) <= 40 and counted[0] == 8
    assert [info.examples for info in list_caches(tmp_path / "kept")] == [39]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_cached_is_uncached(many_of, tmp_path, dtype):
    plain = {"plan": "bft-adapter@2", "cache_dtype": dtype, "epochs": 3}
    folders = []
    for cache in ("ram", "off", str(tmp_path / "kept")):
        folders.append(tmp_path / f"run-{len(folders)}")
        train(many_of(**plain, cache=cache, out=str(folders[-1])), reporter=QUIET)
    kept, uncached, on_disk = (read_tensors(folder / "adapter") for folder in folders)
    # Other batches run the trunk, so last digits may differ; on disk and in memory it is the same ones.
    far = {"fp32": 1e-5, "bf16": 2e-3, "int8": 2e-2}[dtype]
    for name, tensor in kept.items():
        assert torch.equal(tensor, on_disk[name]), name
        torch.testing.assert_close(tensor, uncached[name], rtol=0, atol=far)


@pytest.mark.parametrize("cache", ["ram", "folder"])
def test_stopped_anywhere_it_goes_on_to_the_same_bits(many_of, tmp_path, monkeypatch, cache):
    def config(name, **changes):
        place = "ram" if cache == "ram" else str(tmp_path / f"kept-{name}")
        return many_of(plan="bft+ffd@2", cache=place, checkpoint_every=2, out=str(tmp_path / name), **changes)

    train(config("whole"), reporter=QUIET)
    for stop in (1, 4, 9):  # in the pass of the trunk, in the first epoch, in the second
        seen, plain = [0], Feed.hidden

        def hidden(self, batch, seen=seen, plain=plain, stop=stop):
            seen[0] += 1
            if seen[0] > stop:
                raise KeyboardInterrupt
            return plain(self, batch)

        name = f"stopped-{stop}"
        with monkeypatch.context() as patch:
            patch.setattr(Feed, "hidden", hidden)
            with pytest.raises(KeyboardInterrupt):
                train(config(name), reporter=QUIET)
        train(config(name, resume=True), reporter=QUIET)
        whole, parts = (read_tensors(tmp_path / one / "adapter") for one in ("whole", name))
        assert all(torch.equal(whole[key], parts[key]) for key in whole), stop


@pytest.mark.parametrize("trunk", ["resident", "streamed"])
def test_a_cache_is_built_of_each_once(many_of, tmp_path, trunk):
    model = tmp_path / "base"
    tiny.tiny_decoder("llama").save_pretrained(model)
    tiny.decoder_tokenizer().save_pretrained(model)
    given = {"model": str(model), "plan": "2: lora", "objective": "classification", "trunk": trunk}
    records = build_cache(many_of(**given, cache=str(tmp_path / trunk)), QUIET)["caches"]
    assert [(record["examples"], record["computed"]) for record in records] == [(4 * TEXTS, TEXTS), (2 * TEXTS, TEXTS)]


def test_trials_share_them(many_of, counted, tmp_path):
    settings = many_of(plan="bft-adapter@2").model_dump(mode="json", exclude_unset=True)
    results = train_many(
        [{**settings, "lr": rate, "out": str(tmp_path / f"lr-{rate}")} for rate in (1e-3, 3e-3)], reporter=QUIET
    )
    assert len(results) == 2 and sum(counted) == 2 * TEXTS


# ---- predicting ----


def test_predictions_run_the_whole_model_once_for_each(many_of, many, counted):
    out = Path(train(many_of(plan="bft-adapter@2"), reporter=QUIET).out)
    counted.clear()
    predictor = Predictor(out)
    said = predictor.predict(str(many / "train.csv"))
    assert sum(counted) == TEXTS
    assert said.labels is not None and list(said.labels) == list(said.labels)[:TEXTS] * 4
    counted.clear()
    scored = predictor.score(str(many / "train.csv"))
    assert sum(counted) == TEXTS and scored["n"] == 4 * TEXTS


def test_a_text_is_written_once_unless_it_is_drawn():
    model, tokenizer, asked = tiny.tiny_decoder("llama").eval(), tiny.decoder_tokenizer(), []
    plain = model.generate

    def counting(ids, **settings):
        asked.append(len(ids))
        return plain(ids, **settings)

    model.generate = counting  # pyright: ignore[reportAttributeAccessIssue]
    texts = ["the dog", "a very big cat", "the dog", "the dog"]
    said = generate.generate_texts(model, tokenizer, texts, 16, {"max_new_tokens": 3, "do_sample": False})
    assert asked == [2] and said[0] == said[2] == said[3]
    alone = generate.generate_texts(model, tokenizer, texts[:2], 16, {"max_new_tokens": 3, "do_sample": False})
    assert said[:2] == alone
    generate.generate_texts(model, tokenizer, texts, 16, {"max_new_tokens": 3, "do_sample": True})
    assert asked[-1] == 4
    settings = {"max_new_tokens": 3, "do_sample": False}
    assert generate.generate_texts(model, tokenizer, texts, 16, settings, batch_size=1) == said
    assert asked[-2:] == [1, 1]
