"""Memory and time of a run by the place of its trunk, against counts by hand."""

from __future__ import annotations

import pytest

from stratatune.costs.cost import cost
from stratatune.costs.placing import PROCESS, Rates, places
from stratatune.plan import Plan, shape_of

LENGTHS = [64] * 320
RATES = Rates(flops=2e11, disk=1e9)


def placed(plan, model, head="sequence", objective="classification", lengths=LENGTHS):
    resolved = Plan.parse(plan).resolve(shape_of(model))
    costs = cost(resolved, lengths=lengths, objective=objective, dtype="bf16")
    return resolved, costs, places(resolved, costs, lengths, head, RATES)


def test_a_large_decoder_by_hand():
    resolved, costs, found = placed("7/8: lora", "llama-3-8b")
    block = resolved.shape.block_parameters
    training = PROCESS + 16 * resolved.trainable("sequence") + costs.epochs["cached"].saved_bytes
    weights = resolved.shape.parameters("sequence")
    assert found["resident"].memory_bytes == pytest.approx(training + 2 * weights, rel=0.001)
    assert found["streamed"].memory_bytes == pytest.approx(training + 2 * 4 * block, rel=0.001)
    assert found["streamed, top in 4 bits"].memory_bytes == pytest.approx(training + 4 * block * 4.127 / 8, rel=0.001)
    build = 2 * 28 * block * sum(LENGTHS) / RATES.flops
    assert found["streamed"].build_seconds == pytest.approx(build, rel=0.05)


def test_few_tokens_wait_for_the_disk():
    resolved, _, found = placed("7/8: lora", "llama-3-70b", lengths=[4])
    trunk = 2 * 70 * resolved.shape.block_parameters
    assert found["streamed"].build_seconds == pytest.approx(trunk / RATES.disk)


def test_what_trains_whole_is_not_packed():
    _, _, found = placed("7/8: full", "llama-3-8b")
    assert found["streamed, top in 4 bits"] == found["streamed"]


def test_a_tied_head_is_in_memory():
    plain = placed("1/2: lora", "Qwen3-0.6B")[2]["streamed"].memory_bytes
    speaking = placed("1/2: lora", "Qwen3-0.6B", "lm", "completion")[2]["streamed"].memory_bytes
    assert speaking - plain > 2 * 151936 * 1024


@pytest.mark.parametrize(("plan", "model"), [("lora", "llama-3-8b"), ("1/2: lora", "t5-small")])
def test_without_a_trunk_to_stream_there_is_one_place(plan, model):
    objective = ("sequence", "classification") if model != "t5-small" else ("seq2seq_lm", "seq2seq")
    assert list(placed(plan, model, *objective)[2]) == ["resident"]


def test_biases_that_train_leave_their_weights_packed():
    plain, beside = (placed(text, "bert-large-cased")[2] for text in ("10: lora", "10: lora + bitfit(on=ffn)"))
    more = [found["streamed, top in 4 bits"].memory_bytes for found in (plain, beside)]
    assert more[1] - more[0] < 20e6, "biases, their state, and what a step keeps for them"
