"""Prompts and completions: what is given stays given."""

from __future__ import annotations

import pytest

from stratatune.data.causal import encode_completion, prompt_ids
from stratatune.data.readers import Table


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
