"""``--trunk streamed``: the same run as with the trunk in memory, and a run that is stopped inside a wave goes on."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification

import tiny
from checkpoints import HALF
from stratatune.app.cli import run as command
from stratatune.app.verbs.training import summary
from stratatune.cache.trunks import streamed
from stratatune.errors import ConfigError, ModelError
from stratatune.exits.registry import EXITS, exit_of
from stratatune.model import sharding
from stratatune.model.artefact import load_artefact
from stratatune.model.unread import Unread
from stratatune.progress import Reporter
from stratatune.studies.report import report_on
from stratatune.studies.report.markdown import markdown
from stratatune.training import streaming
from stratatune.training.build import build_cache
from stratatune.training.predict import Predictor
from stratatune.training.run import train

QUIET = Reporter(quiet=True)
PLAN = "2: lora"


@pytest.fixture(params=["llama", "gemma3_text", "gpt2"])
def base(request, tmp_path):
    model = tiny.tiny_decoder(request.param)
    nn.Module.to(model, HALF)
    model.save_pretrained(tmp_path / "base", max_shard_size="60KB")
    tiny.decoder_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def run_of(settings, base, tmp_path):
    def make(name, **changes):
        data = {"model": str(base), "plan": PLAN, "objective": "classification", "out": str(tmp_path / name)}
        return settings(**{**data, "cache": str(tmp_path / f"cache-{name}"), **changes})

    return make


def hidden_states(folder):
    """The bytes of every shard below ``folder``."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("shard-*.bin"))}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_cache_to_the_bit(run_of, tmp_path, precision):
    built = [build_cache(run_of(trunk, trunk=trunk, precision=precision), QUIET) for trunk in ("resident", "streamed")]
    first, second = ([one["digest"] for one in record["caches"]] for record in built)
    assert first == second
    resident, stream = (hidden_states(tmp_path / f"cache-{trunk}") for trunk in ("resident", "streamed"))
    assert resident
    assert resident == stream


def test_the_same_run(run_of, tmp_path):
    whole = train(run_of("resident", trunk="resident", cache=str(tmp_path / "one")), reporter=QUIET)
    stream = train(run_of("streamed", trunk="streamed", cache=str(tmp_path / "one")), reporter=QUIET)
    assert stream.cache_hit
    assert stream.best == whole.best
    assert stream.total == whole.total
    files = [next((tmp_path / name / "adapter").glob("*.safetensors")) for name in ("resident", "streamed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_counts_at_the_start_are_those_of_the_end(run_of, capsys):
    """A streamed top waits in its checkpoint until the first batch, and counts all the same."""
    result = train(run_of("streamed", trunk="streamed"), reporter=Reporter())
    said = capsys.readouterr()
    assert f"{result.trainable:,} of {result.total:,} parameters train" in said.err + said.out


def test_a_trunk_that_has_just_run_is_not_said_to_have_been_found(run_of, tmp_path):
    """A streamed trunk fills its cache before the first step, when a cache from before is complete."""
    told = []
    for name in ("first", "second"):
        result = train(run_of(name, trunk="streamed", cache=str(tmp_path / "one")), reporter=QUIET)
        assert result.cache_hit and (result.seconds["cache"] > 0) == (name == "first")
        text = markdown(report_on(result.out))
        told.append(("never ran" in summary(result), "never ran" in text, "ran once for each example" in text))
    assert told == [(False, False, True), (True, True, False)]


def test_a_top_that_does_not_fit_is_streamed_too(run_of, tmp_path, monkeypatch):
    whole = train(run_of("resident", trunk="streamed"), reporter=QUIET)
    said = []
    monkeypatch.setattr(QUIET, "say", said.append)
    monkeypatch.setattr(streaming, "_TOP", 0.0)
    config = run_of("streamed", trunk="streamed")
    stream = train(config, reporter=QUIET)
    assert [line for line in said if line.startswith("top: streamed")]
    assert (stream.best, stream.total, stream.trainable) == (whole.best, whole.total, whole.trainable)
    files = [next((tmp_path / name / "adapter").glob("*.safetensors")) for name in ("resident", "streamed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    loaded = Predictor(tmp_path / "streamed", trunk="streamed")
    assert loaded.model.attached.backbone.body.through is not None
    assert loaded.score(config.eval) == Predictor(tmp_path / "resident", trunk="resident").score(config.eval)


def test_a_block_is_read_once_a_wave(run_of, monkeypatch):
    read = []

    def note(name):
        whole = getattr(Unread, name)

        def noted(self, parameter, *args):
            read.append(self._keys[id(parameter)])
            return whole(self, parameter, *args)

        monkeypatch.setattr(Unread, name, noted)

    note("read")
    note("pieces")
    train(run_of("streamed", trunk="streamed"), reporter=QUIET)
    below = [key for key in read if ".0." in key or ".1." in key]
    times = {key: below.count(key) for key in below}
    assert set(times.values()) == {3}, "for the fingerprint, the training data and the evaluation data"


def test_stopped_inside_a_wave_it_goes_on(run_of, monkeypatch):
    waves, whole = [], streamed.run_wave

    def stops(*args):
        waves.append(len(args[-1]))
        if len(waves) == 3:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(streamed, "run_wave", stops)
    monkeypatch.setattr(streamed.Room, "rows", lambda self, tokens: 8)
    monkeypatch.setattr(streamed.Room, "held", lambda self, batch, tokens: 1e18)
    config = run_of("streamed", trunk="streamed")
    with pytest.raises(KeyboardInterrupt):
        train(config, reporter=QUIET)
    assert len(waves) == 3
    train(config, reporter=QUIET)
    assert len(waves) == 3 + (48 // 8 - 2) + 3, "the two waves that were written did not run again"


def test_a_checkpoint_cut_short_is_one_line(run_of, base):
    file = min(base.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        train(run_of("streamed", trunk="streamed"), reporter=QUIET)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cache": "off"}, "without a trunk cache"),
        ({"plan": ": lora"}, "there is no trunk"),
        ({"memory_limit": "1MB"}, "are in use"),
    ],
)
def test_what_cannot_be_streamed_is_refused(run_of, changes, said):
    with pytest.raises(ConfigError, match=said):
        train(run_of("streamed", trunk="streamed", **changes), reporter=QUIET)


def test_auto_streams_what_does_not_fit(run_of, monkeypatch):
    said = []
    monkeypatch.setattr(QUIET, "say", said.append)
    with pytest.raises(ConfigError, match="memory_limit"):  # so little that not even one block fits
        train(run_of("auto", memory_limit="100KB"), reporter=QUIET)
    assert any("trunk: streamed" in line for line in said)


def test_auto_streams_what_does_not_fit_on_the_gpu(run_of, tmp_path, monkeypatch):
    """The machine has room, and the GPU has not; the numbers are those of a CPU, which computes here all the same."""
    whole = train(run_of("whole"), reporter=QUIET)
    said, asked = [], []
    monkeypatch.setattr(QUIET, "say", said.append)
    monkeypatch.setattr(streaming, "gpu_memory", lambda device: asked.append(device) or 100_000)
    stream = train(run_of("streamed"), reporter=QUIET)
    lines = [line for line in said if line.startswith("trunk: streamed: the checkpoint takes")]
    assert len(lines) == 1 and lines[0].endswith("there is room for 80.0 kB in the memory of the GPU")
    assert set(asked) == {"cpu"} and stream.best == whole.best
    loaded = Predictor(tmp_path / "whole", device="cpu")
    assert Unread.of(loaded.model) is not None and "of the GPU" in loaded.notices[-1]
    monkeypatch.setattr(streaming, "gpu_memory", lambda device: 1 << 40)
    assert Unread.of(Predictor(tmp_path / "whole", device="cpu").model) is None


def test_a_top_must_fit_on_the_gpu_too(run_of, monkeypatch):
    monkeypatch.setattr(streaming, "gpu_memory", lambda device: 1_000)
    assert streaming.room_for_top(run_of("run")) == streaming.room_for_saved("", None, "cuda") == 560
    assert streaming.room_for_saved(None, None, "cuda") is None


@pytest.mark.parametrize("trunk", ["auto", "resident"])
@pytest.mark.parametrize("plan", [PLAN, ": lora"])
def test_a_limit_that_a_model_in_memory_exceeds_is_refused(run_of, tmp_path, plan, trunk):
    config = run_of("whole", trunk=trunk, plan=plan)
    train(config, reporter=QUIET)
    with pytest.raises(ConfigError, match=r"memory_limit: 10MB; .* in use") as caught:  # the checkpoint takes less
        train(run_of("run", trunk=trunk, plan=plan, memory_limit="10MB"), reporter=QUIET)
    assert "or more, or a smaller model" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match=r"memory_limit: 10MB; .* in use"):
        Predictor(tmp_path / "whole", trunk=trunk, memory_limit="10MB")
    assert train(run_of("run", trunk=trunk, plan=plan, memory_limit="100GB"), reporter=QUIET)
    assert Predictor(tmp_path / "whole", trunk=trunk, memory_limit="100GB").score(config.eval)


def test_a_limit_that_a_streamed_trunk_keeps_is_hinted_at(run_of, monkeypatch):
    monkeypatch.setattr(streaming, "bytes_of", lambda block: 1 << 40)
    with pytest.raises(ConfigError, match='or more, or trunk="streamed"'):
        train(run_of("run", trunk="resident", memory_limit="10MB"), reporter=QUIET)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_saved_run_scores_alike(run_of, tmp_path, precision):
    config = run_of("run", precision=precision)
    train(config, reporter=QUIET)
    whole = Predictor(tmp_path / "run", trunk="resident").score(config.eval)
    stream = Predictor(tmp_path / "run", trunk="streamed")
    assert Unread.of(stream.model) is not None
    assert stream.score(config.eval) == whole
    texts = ["great film", "a bad day", "it was fine"]
    wanted = Predictor(tmp_path / "run").predict(texts)
    found = stream.predict(texts)
    assert (found.probabilities == wanted.probabilities).all()


def test_a_streamed_chat_is_scored_without_what_it_would_write(run_of, tmp_path):
    rows = [{"prompt": f"say {word}", "completion": word} for word in ("great", "bad", "fine")] * 4
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(tmp_path / "chats.jsonl"), "eval": str(tmp_path / "chats.jsonl"), "text": (), "label": None}
    train(run_of("chat", objective="chat", template="plain", **data), reporter=QUIET)
    whole, stream = (
        Predictor(tmp_path / "chat", trunk=trunk).score(data["eval"]) for trunk in ("resident", "streamed")
    )
    assert stream["metrics"].items() <= whole["metrics"].items() and "loss" in stream["metrics"]
    assert "the trunk is streamed, so no text is generated and scored (ROUGE)" in stream["notices"]


def test_a_merged_model_is_written_without_its_trunk_in_memory(run_of, tmp_path, monkeypatch):
    train(run_of("run"), reporter=QUIET)
    monkeypatch.setattr(sharding, "_SHARD_BYTES", 20_000)
    folders = []
    for trunk in ("resident", "streamed"):
        artefact = load_artefact(tmp_path / "run", unread=trunk == "streamed")
        folders.append(tmp_path / trunk)
        exit_of("merged").write(artefact.model, artefact.tokenizer, folders[-1])
    assert len(list(folders[1].glob("model-*.safetensors"))) > 1
    stock = [AutoModelForSequenceClassification.from_pretrained(folder).state_dict() for folder in folders]
    assert stock[0].keys() == stock[1].keys()
    assert all(torch.equal(one, stock[1][name]) for name, one in stock[0].items())
    assert (folders[0] / "config.json").read_text() == (folders[1] / "config.json").read_text()


def test_every_form_is_written_of_a_streamed_trunk_or_says_why_not(run_of, tmp_path, capsys):
    rows = [{"anchor": f"a {word} film", "positive": f"the film was {word}"} for word in ("great", "bad", "fine")] * 4
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(tmp_path / "pairs.jsonl"), "eval": None, "text": (), "label": None}
    train(run_of("pairs", objective="vectors", **data), reporter=QUIET)
    train(run_of("run"), reporter=QUIET)
    for name, form in EXITS.items():
        run = str(tmp_path / ("pairs" if name == "sentence-transformers" else "run"))
        trunks = ("streamed",) if form.whole else ("resident", "streamed")
        folders = {trunk: tmp_path / f"{name}-{trunk}" for trunk in trunks}
        codes = {
            trunk: command(["export", run, "--to", name, "--trunk", trunk, "--out", str(folder), "--quiet"])
            for trunk, folder in folders.items()
        }
        said = capsys.readouterr().err
        if form.whole:
            assert codes["streamed"] == 2 and f"{name} needs the whole model in memory" in said
            continue
        assert codes == {"resident": 0, "streamed": 0}, said
        one, other = (tensors_in(folder) for folder in folders.values())
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def tensors_in(folder):
    """Every tensor of a folder, by its name."""
    return {key: value for path in sorted(folder.rglob("*.safetensors")) for key, value in load_file(path).items()}


def test_the_top_waits_in_the_checkpoint(run_of, base, monkeypatch):
    if json.loads((base / "config.json").read_text())["model_type"] == "gpt2":
        pytest.skip("the linears of its top are taken apart, and are no longer the checkpoint's")
    held, whole = [], streamed.run_wave

    def weighed(family, unread, depth, texts):
        held.append(sum(one.nbytes for block in family.body.blocks for one in block.parameters() if not one.is_meta))
        return whole(family, unread, depth, texts)

    monkeypatch.setattr(streamed, "run_wave", weighed)
    train(run_of("run", trunk="streamed"), reporter=QUIET)
    trained_and_norms = 20_000
    assert max(held) < trained_and_norms


def test_it_starts_from_another_run_as_with_the_trunk_in_memory(run_of, tmp_path):
    start = train(run_of("start"), reporter=QUIET).out
    found = {}
    for trunk in ("resident", "streamed"):
        changes = {"trunk": trunk, "start_from": start, "epochs": 1, "cache": str(tmp_path / "one")}
        result = train(run_of(trunk, **changes), reporter=QUIET)
        found[trunk] = load_file(tmp_path / trunk / "adapter" / "adapter.safetensors")
        assert result.epochs == 1
    assert all(torch.equal(found["resident"][name], tensor) for name, tensor in found["streamed"].items())
