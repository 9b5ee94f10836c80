"""Every method against its formula, written out independently: plain torch, one unpadded text at a time, fp64."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool1d, adaptive_max_pool1d, gelu, linear, relu

import tiny
from byhand import ByHand
from stratatune.methods.idpg import PhmLinear
from stratatune.methods.late_prompt import slots_of
from tuning import batch, halves, read_at, shake, tuned, whole


def ours(model, inputs, read):
    with torch.no_grad():
        found = whole(model, inputs, read)
        torch.testing.assert_close(halves(model, inputs, read), found, rtol=0, atol=1e-10)
    return found


def texts(inputs):
    """The unpadded numbers of each text."""
    return [ids[mask.bool()] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]


def check(family, plan, one_text):
    """``one_text(hand, weights, ids, read) -> [V]`` against the tuned model on a padded batch."""
    model, inputs, read = shake(tuned(family, plan)), batch(family), read_at("mlm")
    inputs.pop("token_type_ids", None)
    hand, weights = ByHand(tiny.tiny_model(family).double()), _Weights(model)
    found = ours(model, inputs, read)
    expected = torch.stack([one_text(hand, weights, ids, int(at)) for ids, at in zip(texts(inputs), read, strict=True)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


class _Weights:
    """The trained tensors by the end of their name, of one block where it is given."""

    def __init__(self, model):
        self.all = {name: parameter.detach() for name, parameter in model.attached.trained().items()}

    def __call__(self, ending, block=None):
        where = "" if block is None else f".layer.{block}."
        (found,) = [t for name, t in self.all.items() if name.endswith(ending) and where in name]
        return found

    def linear(self, ending, x, block=None):
        return linear(x, self(f"{ending}.weight", block), self(f"{ending}.bias", block))


def test_the_model_by_hand_is_the_model(family):
    model, inputs, read = tiny.tiny_model(family).double(), batch(family), read_at("mlm")
    inputs.pop("token_type_ids", None)
    hand = ByHand(model)
    with torch.no_grad():
        found = whole(model, inputs, read)
    expected = torch.stack(
        [hand.head(hand.encode(hand.embed(ids))[at]) for ids, at in zip(texts(inputs), read, strict=True)]
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_houlsby(family):
    def one(hand, w, ids, read):
        def behind(part):
            def step(block, x, y):
                name = f"layer.{block}.{part}"
                return y if block < 2 else y + w.linear(f"{name}.up", gelu(w.linear(f"{name}.down", y)))

            return step

        x = hand.encode(hand.embed(ids), after_o=behind("attention.output.dense"), after_ffn=behind("output.dense"))
        return hand.head(x[read])

    check(family, "2: houlsby(bottleneck=8)", one)


@pytest.mark.parametrize("on", ["ffn", "attn"])
def test_parallel(family, on):
    def one(hand, w, ids, read):
        def beside(block, x, y):
            return y if block < 1 else y + 3 * w.linear("up", relu(w.linear("down", x, block)), block)

        return hand.head(hand.encode(hand.embed(ids), **{"after_ffn" if on == "ffn" else "after_o": beside})[read])

    check(family, f"1: parallel(bottleneck=8, scale=3, on={on})", one)


def test_prefix(family):
    def one(hand, w, ids, read):
        prefix = {block: (w("prefix.key", block), w("prefix.value", block)) for block in range(1, 4)}
        x = hand.encode(hand.embed(ids), stop=1)
        return hand.head(hand.encode(x, 1, prefix=prefix)[read])

    check(family, "1: prefix(tokens=3)", one)


def test_prompt(family):
    """The prompt's vectors stand for P words at the first positions; the text follows, and is read P positions on."""

    def one(hand, w, ids, read):
        place = torch.arange(3) + (0 if family == "bert" else 2)
        sums = w("vectors") + hand.w["embeddings.position_embeddings.weight"][place]
        prompt = hand.norm("embeddings.LayerNorm", sums + hand.w["embeddings.token_type_embeddings.weight"][0])
        return hand.head(hand.encode(torch.cat([prompt, hand.embed(ids, first=3)]))[3 + read])

    check(family, "prompt(tokens=3)", one)


def _naive(w, h):
    return w.linear("up", relu(w.linear("down", h[0]))).view(3, -1)


def _pooled(w, h, pool):
    narrow = w.linear("down", h)  # [T, M]
    return w.linear("up", relu(pool(narrow.T.unsqueeze(0), 3)[0].T))


GENERATORS = {
    "naive": _naive,
    "appg": lambda w, h: _pooled(w, h, adaptive_avg_pool1d),
    "mppg": lambda w, h: _pooled(w, h, adaptive_max_pool1d),
    "table": lambda w, h: w("vectors"),
}


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("depth", [0, 2, 3])
def test_late_prompt(family, generator, depth):
    """anchors.md: before the first token, behind block n, no position of their own, read P further on, seen by all."""

    def one(hand, w, ids, read):
        h = hand.encode(hand.embed(ids), stop=depth)
        return hand.head(hand.encode(torch.cat([GENERATORS[generator](w, h), h]), depth)[3 + read])

    check(family, f"late_prompt(depth={depth}, tokens=3, bottleneck=8, generator={generator})", one)


def test_a_second_prompt_reads_the_text_and_not_the_first(family):
    def one(hand, w, ids, read):
        h = hand.encode(hand.embed(ids), stop=1)
        x = hand.encode(torch.cat([w("late_prompt_at_1.generator.vectors"), h]), 1, 2)
        narrow = w.linear("late_prompt_at_2.generator.down", x[2:])
        pooled = adaptive_avg_pool1d(narrow.T.unsqueeze(0), 3)[0].T
        prompt = w.linear("late_prompt_at_2.generator.up", relu(pooled))
        return hand.head(hand.encode(torch.cat([prompt, x]), 2)[5 + read])

    first = "late_prompt(depth=1, tokens=2, generator=table)"
    check(family, f"{first} | late_prompt(depth=2, tokens=3, bottleneck=8, generator=appg)", one)


@pytest.mark.parametrize("shared", ["", ", shared"])
def test_idpg(family, shared):
    """The frozen model reads the text; two hypercomplex layers make the prompt; the whole goes through all blocks."""

    def one(hand, w, ids, read):
        def phm(layer, x):
            rules = w("down.rules" if shared else f"{layer}.rules")
            tiles = w(f"{layer}.tiles")
            matrix = sum(torch.kron(a, b) for a, b in zip(rules, tiles, strict=True))  # [out, in]
            return linear(x, matrix, w(f"{layer}.bias"))

        h = hand.embed(ids)
        prompt = phm("up", gelu(phm("down", hand.encode(h)[0]))).view(2, -1)
        return hand.head(hand.encode(torch.cat([prompt, h]))[2 + read])

    check(family, f"idpg(tokens=2, phm=4, bottleneck=8{shared})", one)


def test_phm_is_a_sum_of_kronecker_products():
    layer = PhmLinear(torch.nn.Parameter(torch.randn(3, 3, 3)), 6, 9)
    x = torch.randn(5, 6)
    matrix = sum(torch.kron(a, b) for a, b in zip(layer.rules, layer.tiles, strict=True))
    torch.testing.assert_close(layer(x), linear(x, matrix, layer.bias))


@pytest.mark.parametrize("slots", [1, 3, 5])
def test_slots_are_those_of_adaptive_pooling(slots):
    for length in range(1, 9):
        mask = torch.zeros(1, 10, dtype=torch.bool)
        mask[0, 1 : 1 + length] = True  # padding on either side
        values = torch.randn(1, 10, 1, dtype=torch.float64)
        found = slots_of(mask, slots)[0].double() @ values[0] / slots_of(mask, slots)[0].sum(1, keepdim=True)
        expected = adaptive_avg_pool1d(values[0, 1 : 1 + length].T.unsqueeze(0), slots)[0].T
        torch.testing.assert_close(found, expected)
