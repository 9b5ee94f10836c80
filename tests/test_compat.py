"""What differs between the versions of the libraries, by stand-ins for both."""

from __future__ import annotations

import pytest
from torch import nn
from transformers import LlamaForCausalLM
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from stratatune._compat import cache_argument, given_cache


class Older(nn.Module):
    def forward(self, hidden, attention_mask=None, past_key_values=None, **more):
        return hidden


class Newer(nn.Module):
    def forward(self, hidden, cache=None, attention_mask=None, **more):
        return hidden


@pytest.mark.parametrize(("block", "name"), [(Older, "past_key_values"), (Newer, "cache")])
def test_a_block_says_how_it_takes_its_cache(block, name):
    assert cache_argument(block()) == name


def test_transformers_uses_one_name():
    classes = (LlamaForCausalLM, LlamaDecoderLayer, GPT2Block)
    assert len({cache_argument(one.__new__(one)) for one in classes}) == 1


@pytest.mark.parametrize(
    ("kwargs", "found"),
    [
        ({}, None),
        ({"cache": "new"}, "new"),
        ({"past_key_values": "old"}, "old"),
        ({"cache": None, "past_key_values": "old"}, "old"),
        ({"cache": "new", "past_key_values": None}, "new"),
    ],
    ids=str,
)
def test_a_cache_is_read_under_either_name(kwargs, found):
    assert given_cache(kwargs) == found
