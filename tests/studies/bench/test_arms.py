"""The sides of a comparison compute the same thing where they are meant to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.padding_free import PaddingFree

from stratatune.studies.bench.arms import BenchSetting, Stock, random_data

ROBERTA = {
    "model_type": "roberta", "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 40, "type_vocab_size": 1, "pad_token_id": 1,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # by peft
def test_without_padding_the_loss_and_gradients_are_those_of_a_padded_batch():
    data = random_data(np.array([5, 17, 9, 30, 4, 12, 7, 21]), 90)
    setting = BenchSetting(ROBERTA, data, batch_size=4, bf16=False, timed=2)
    padded, free = Stock(setting, lora=True, bucketed=False), PaddingFree(setting)
    for arm in (padded, free):
        torch.manual_seed(1)
        for name, parameter in arm.model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_()
        arm.model.double().eval()
    for batch in padded.batches():
        losses = [arm.loss(batch) for arm in (padded, free)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=1e-12)
        for arm, loss in zip((padded, free), losses, strict=True):
            arm.model.zero_grad()
            loss.backward()
    theirs = dict(padded.model.named_parameters())
    compared = 0
    for name, parameter in free.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-9, atol=1e-12)
            compared += 1
    assert compared == sum(p.grad is not None for p in theirs.values()) > 12
