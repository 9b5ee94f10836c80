"""``stratatune bench`` and the lengths that ``stratatune plan`` prices."""

import json
import sys
from pathlib import Path

import pytest

import chats
import tiny
from stratatune.app.verbs.benching import split_plans

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
SMALL = ("--rounds", "1", "--batches", "2", "--batch-size", "8")


@pytest.fixture
def data(tmp_path) -> Path:
    """A file of 40 texts of different lengths."""
    rows = [f"{'a good film and ' * (1 + number % 7)}story,{'yes' if number % 2 else 'no'}" for number in range(40)]
    (tmp_path / "train.csv").write_text("\n".join(["sentence,label", *rows]) + "\n")
    return tmp_path / "train.csv"


def test_bench(say, tiny_folder, data, tmp_path):
    pytest.importorskip("peft")
    folder, out = tiny_folder("bert"), tmp_path / "bench"
    said = say("bench", "--model", folder, "--train", data, "--plans", "bft-adapter@2", *SMALL, "--out", out, "--json")
    assert said.code == 0
    assert [way["name"] for way in said.json["ways"]] == ["A", "B", "C", "F", "floor", "bft-adapter@2"]
    assert said.json["examples"] == 40 and said.json["padding"]["cut by length"] < said.json["padding"]["random"]
    assert (out / "bench.svg").read_text().startswith("<svg") and (out / "bench.json").is_file()


def test_bench_reads_texts_in_a_template(say, tiny_folder, data, tmp_path):
    pytest.importorskip("peft")
    given = ("bench", "--model", tiny_folder("bert", "mlm"), "--train", data, "--plans", "bft-adapter@2", *SMALL)
    given += ("--text", "sentence", "--label", "label", "--out", tmp_path / "bench", "--json")
    plain, longer = (say(*given, "--template", f"{{a}} {more}it was <mask> .") for more in ("", "the film " * 10))
    assert plain.code == longer.code == 0
    assert longer.json["tokens"] == pytest.approx(plain.json["tokens"] + 20)
    alone = say("bench", "--model", tiny_folder("bert"), "--plans", "bft-adapter@2", "--template", "{a} <mask>")
    assert alone.code == 2 and "is only used with --train" in alone.err


def test_bench_prints_one_table(say, tiny_folder, tmp_path):
    pytest.importorskip("peft")
    said = say("bench", "--model", tiny_folder("bert"), "--plans", "2: lora", *SMALL, "--out", tmp_path / "bench")
    assert said.code == 0
    assert "predicted" in said.out and "2: lora" in said.out and "A: stock LoRA" in said.out


def test_bench_of_a_decoder(say, tmp_path, data):
    pytest.importorskip("peft")
    folder = tiny.save_tiny_decoder(tmp_path / "model", "llama")
    asked = ("bench", "--model", folder, "--train", data, "--plans", "bft-adapter@2", *SMALL, "--out", tmp_path / "out")
    said = say(*asked, "--json")
    assert said.code == 0 and said.json["settings"]["objective"] == "causal"
    assert [way["name"] for way in said.json["ways"]] == ["A", "B", "C", "F", "floor", "bft-adapter@2"]
    assert said.json["examples"] == 40


def test_options_need_data(say, tiny_folder):
    said = say("bench", "--model", tiny_folder("bert"), "--plans", "1: lora(rank=2)", "--objective", "tags(align=all)")
    assert said.code == 2 and "need your own data: --train FILE" in said.err


def test_the_command_benches_an_objective(say, tiny_folder, tmp_path):
    pytest.importorskip("peft")
    small = ("--rounds", "1", "--batches", "1", "--batch-size", "4", "--out", tmp_path / "bench")
    said = say(
        "bench",
        "--model",
        tiny_folder("bert"),
        "--plans",
        "1: lora(rank=2)",
        "--objective",
        "multitask",
        *small,
        "--json",
    )
    assert said.code == 0 and said.json["settings"]["objective"] == "multitask"
    assert json.loads((tmp_path / "bench" / "bench.json").read_text())["examples"] == 10_240


def test_bench_without_peft(say, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    said = say("bench", "--model", tiny_folder("bert"), *SMALL, "--out", tmp_path / "bench")
    assert said.code == 1 and "pip install" in said.err and "Traceback" not in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--like", "sst"], "sst2"),
        (["--precision", "int4"], "bf16"),
        (["--plans", ""], "plans"),
        (["--plans", "nope"], "nope"),
    ],
)
def test_bench_mistakes(say, tiny_folder, arguments, message):
    said = say("bench", "--model", tiny_folder("bert"), *arguments)
    assert said.code == 2 and message in said.err


def test_plans_by_commas():
    assert split_plans("bft, 2: lora(rank=4, alpha=8) + bitfit(on=ffn,norm_ffn),full") == [
        "bft",
        "2: lora(rank=4, alpha=8) + bitfit(on=ffn,norm_ffn)",
        "full",
    ]


def test_plan_prices_lengths(say, tmp_path):
    (tmp_path / "lengths.txt").write_text("\n".join(["4", "60"] * 64))
    said = say("plan", "bft-adapter", "--model", "roberta-large", "--lengths", tmp_path / "lengths.txt", "--json")
    assert said.json["epochs"]["A"]["padding"] > 1.5 > said.json["epochs"]["cached"]["padding"]
    assert said.json["cached_vs_A"] > 1.5 * said.json["cached_vs_B"]
    assert said.json["cache_bytes"] == 64 * 64 * 1024 * 4
    assert said.json["places"]["resident"]["memory_bytes"] > said.json["places"]["streamed"]["memory_bytes"]
    assert min(said.json["machine"].values()) > 0
    shown = say("plan", "bft-adapter", "--model", "roberta-large", "--lengths", tmp_path / "lengths.txt").out
    assert "from the cache" in shown and "kept per backward pass" in shown
    assert "on this machine" in shown and "streamed, top in 4 bits" in shown


def test_plan_prices_a_data_file(say, tiny_folder, data):
    said = say("plan", "bft-adapter", "--model", tiny_folder("bert"), "--lengths", data, "--json")
    assert said.code == 0 and said.json["epochs"]["cached"]["steps"] == 2


def test_plan_prices_conversations_of_a_base_without_a_template(say, tmp_path):
    rows = [{"messages": chats.said(("user", "the film"), ("assistant", "was good " * 40))}] * 40
    data = chats.write_jsonl(tmp_path / "chat.jsonl", rows)
    asked = ("plan", "1: lora", "--model", chats.save_chat_model(tmp_path / "bare", None), "--objective", "chat")
    assert "--template plain" in say(*asked, "--lengths", data).err
    short, long = (
        say(*asked, "--lengths", data, "--template", "plain", "--max-length", most, "--json").json for most in (64, 96)
    )
    assert short["epochs"]["cached"]["flops"] < long["epochs"]["cached"]["flops"]


@pytest.mark.parametrize("text", ["", "4\nnine\n", "0", "4\n²\n"])
def test_wrong_lengths(say, tmp_path, text):
    (tmp_path / "lengths.txt").write_text(text)
    said = say("plan", "bft-adapter", "--model", "roberta-large", "--lengths", tmp_path / "lengths.txt")
    assert said.code == 2 and "each line" in said.err


def test_a_file_of_lengths_that_is_not_there_and_columns_that_it_has_not(say, tmp_path):
    asked = ("plan", "lora", "--model", "roberta-large", "--lengths")
    for name in ("nope.csv", "nope.txt"):
        said = say(*asked, tmp_path / name)
        assert said.code == 2 and said.error.startswith(f"lengths: '{tmp_path / name}'; no such file")
    (tmp_path / "lengths.txt").write_text("4\n60\n")
    said = say(*asked, tmp_path / "lengths.txt", "--text", "sentence")
    assert said.code == 2 and "text: 'sentence'; " in said.error and "holds lengths, no texts" in said.error


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--text", "a"), "text: 'a' is only used with --train"),
        (("--label", "b"), "label: 'b' is only used with --train"),
        (("--task", "sst2"), "task: 'sst2' is only used with --train"),
        (("--train", "t.csv", "--like", "rte"), "like: 'rte' is only used without --train"),
    ],
)
def test_options_for_data_that_bench_does_not_read_are_refused(say, words, error):
    said = say("bench", "--model", "roberta-base", *words)
    assert said.code == 2 and said.error == error


def test_a_shape_without_a_tokenizer_wants_the_lengths_themselves(say, data):
    said = say("plan", "bft-adapter", "--model", "roberta-large", "--lengths", data)
    assert said.code == 2
    assert "brings no tokenizer" in said.err and "or a .txt with the tokens of each example" in said.err


@pytest.mark.parametrize("words", [("--task", "sst2"), ("--text", "a"), ("--label", "b"), ("--batch-size", "7")])
def test_what_belongs_to_lengths_is_refused_without_them(say, words):
    said = say("plan", "lora", "--model", "roberta-base", *words)
    assert said.code == 2 and "is only used with --lengths" in said.error


def test_a_plan_that_leaves_nothing_to_do_is_drawn(say, tmp_path):
    (tmp_path / "lengths.txt").write_text("4\n7\n")
    said = say(
        "plan", "frozen", "--model", "roberta-base", "--objective", "vectors", "--lengths", tmp_path / "lengths.txt"
    )
    assert said.code == 0 and "hardly anything is left to compute" in said.out
    assert "takes 512 at most" in say("plan", "lora", "--model", "roberta-base", "--tokens", "1000").error
