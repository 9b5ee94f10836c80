"""Prompts and completions: what is given stays given."""

from __future__ import annotations

import json

import pytest
from tokenizers import processors

import tiny
from stratatune.data.causal import _given_and_answer, encode_completion, prompt_ids
from stratatune.data.encode import encode_plain
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table, read
from stratatune.objectives.completion import Completion
from stratatune.training.generate import _written_after


@pytest.fixture
def llama(shared):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shared / "models" / "stories260K")


@pytest.mark.parametrize("prompt", ["the dog was", "the dog was ", "the dog was\n", "the dog was: \n\n", " ", ""])
def test_a_prompt_keeps_its_white_space(llama, prompt):
    """What is learnt stands behind the very tokens behind which it is generated."""
    encoded = encode_completion(Table(([prompt],), ["big"]), llama, 64)
    given = encoded.ids[: encoded.read[0] + 1].tolist()
    assert given == prompt_ids(llama, prompt)
    behind = encoded.ids[encoded.read[0] + 1 :].tolist()
    assert llama.decode(behind, skip_special_tokens=True).strip() == "big"
    assert "\n" not in llama.decode(behind)


def test_a_blank_joins_prompt_and_completion_where_there_is_none(llama):
    encoded = encode_completion(Table((["the dog was"],), ["big"]), llama, 64)
    assert encoded.ids[:-1].tolist() == llama("the dog was big")["input_ids"]


CODE = ("def f(x):\n", "    return x\n")


def test_a_completion_keeps_its_blanks_and_line_ends(llama, tmp_path):
    path = tmp_path / "code.jsonl"
    path.write_text("".join(json.dumps({"prompt": CODE[0], "answer": one}) + "\n" for one in (CODE[1], "x")))
    table = Completion.read(str(path), ReadOptions(text="prompt", label="answer"))
    assert table.labels == [CODE[1], "x"]
    encoded = encode_completion(table, llama, 64)
    row = encoded.ids[: encoded.lengths[0]].tolist()
    assert row[:-1] == llama("".join(CODE))["input_ids"] and row[-1] == llama.eos_token_id
    # A class name has no such blanks.
    assert read(str(path), ReadOptions(text="prompt", label="answer")).labels == ["return x", "x"]


def test_an_input_that_is_not_read_beside_its_instruction_is_said(tmp_path):
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([{"instruction": "Sum up.", "input": "A tale.", "output": "It ends well."}] * 2))
    table = Completion.read(str(path), ReadOptions(text="instruction", label="output"))
    said = f"{path}: column 'input' is not read; --objective chat puts it after the instruction"
    assert said in table.notices
    table = Completion.read(str(path), ReadOptions(text="output", label="instruction"))
    assert not any("is not read" in notice for notice in table.notices)


@pytest.mark.parametrize("prompt", ["the dog", "the dog:\n", "the dog "])
@pytest.mark.parametrize("completion", ["was big", "  was\n", "was big\n"])
def test_what_is_written_after_a_prompt_is_the_completion(llama, prompt, completion):
    given, answer = _given_and_answer(llama, prompt, completion)
    found = _written_after(llama, given, answer)
    # Its first blank cannot be distinguished from the one that is put between the two.
    assert found == (completion if prompt[-1].isspace() else completion.removeprefix(" "))


def test_no_blank_is_put_where_the_completion_brings_its_own(llama):
    encoded = encode_completion(Table((["the dog was"],), [" big"]), llama, 64)
    assert encoded.ids[:-1].tolist() == llama("the dog was big")["input_ids"]


def test_all_of_an_answer_without_a_prompt_is_learned():
    """Where no token opens a text, its first one was taken for the prompt."""
    tokenizer = tiny.decoder_tokenizer()
    opened = _given_and_answer(tokenizer, "", " yes")
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    assert tokenizer(" yes")["input_ids"] == opened[1][:-1]
    assert _given_and_answer(tokenizer, "", " yes") == opened == ([tokenizer.bos_token_id], opened[1])


def test_a_blank_text_has_a_token_whatever_the_tokenizer(tmp_path):
    tokenizer = tiny.decoder_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    found = encode_plain(Table((["", "good"],)), tokenizer, 8)
    assert found.lengths.min() == 1 and found.ids[0] == tokenizer.bos_token_id
