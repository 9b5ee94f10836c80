"""LoRA against stock peft with the same weights: logits and gradients, to the last digits of double precision."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

import tiny
from stratatune.methods.lora import LoraLinear
from stratatune.model.attach import apply

# peft 0.21 asks transformers 5.23 by a name that it deprecates
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

QKV = ["query", "key", "value"]
CASES = {  # plan -> stock peft's words for its LoRA part
    "lora": {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]},
    "lora-I": {"r": 64, "lora_alpha": 128, "target_modules": QKV},
    "lora-II": {"r": 64, "lora_alpha": 128, "target_modules": [*QKV, "attention.output.dense"]},
    "spafit-0-1-I": {"r": 64, "lora_alpha": 128, "target_modules": QKV, "layers_to_transform": [2, 3]},
    "spafit-0-1-II": {
        **{"r": 64, "lora_alpha": 128, "target_modules": [*QKV, "attention.output.dense"]},
        "layers_to_transform": [2, 3],
    },
    # BitFit low down, one rank in block 1, another in block 2, the last block whole: still one stock config
    "0 bitfit | 1 lora(rank=4, alpha=4, on=q,v) | 2 lora(rank=16, alpha=8, on=q,v,down) + bitfit(on=ffn) | 3 full": {
        **{
            "r": 4,
            "lora_alpha": 4,
            "target_modules": r".*layer\.1\..*(query|value)|.*layer\.2\.(.*(query|value)|output\.dense)",
        },
        "rank_pattern": {r".*layer\.2\..*": 16},
        "alpha_pattern": {r".*layer\.2\..*": 8},
        "modules_to_save": ["layer.3"],
    },
}


def inputs():
    ids = torch.randint(5, 100, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(9) < torch.tensor([9, 5, 7])[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def ours(family, plan):
    model = apply(tiny.tiny_model(family), plan).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.attached.trained().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1)
    return model


def stock(family, model, settings):
    """Stock peft on a base that holds the biases and blocks that ``model`` trains, its A and B copied."""
    base = tiny.tiny_model(family).double()
    plain = {
        name.replace(".base.", "."): p for name, p in model.state_dict().items() if not name.endswith((".a", ".b"))
    }
    base.load_state_dict(plain, strict=True)
    peft_model = get_peft_model(base, LoraConfig(**settings)).eval()
    wrapped = {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}
    targets = {
        name.removeprefix("base_model.model."): m for name, m in peft_model.named_modules() if isinstance(m, LoraLayer)
    }
    assert wrapped.keys() == targets.keys()
    with torch.no_grad():
        for name, one in wrapped.items():
            targets[name].lora_A["default"].weight.copy_(one.a)
            targets[name].lora_B["default"].weight.copy_(one.b)
    return peft_model, wrapped, targets


@pytest.mark.parametrize("plan", CASES)
def test_equals_stock_peft(family, plan):
    model = ours(family, plan)
    peft_model, wrapped, targets = stock(family, model, CASES[plan])
    logits, wanted = model(**inputs()).logits, peft_model(**inputs()).logits
    torch.testing.assert_close(logits, wanted, atol=1e-10, rtol=0)
    logits.logsumexp(-1).sum().backward()
    wanted.logsumexp(-1).sum().backward()
    for name, one in wrapped.items():
        torch.testing.assert_close(one.a.grad, targets[name].lora_A["default"].weight.grad, atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(one.b.grad, targets[name].lora_B["default"].weight.grad, atol=1e-10, rtol=1e-8)


def test_starts_like_peft_s_lora():
    """B zero, A uniform with peft's bound sqrt(6 / ((1 + 5) in)) = 1 / sqrt(in)."""
    linear = LoraLinear(torch.nn.Linear(64, 32), rank=8, alpha=16, dropout=0.0)
    bound = 64**-0.5
    assert not linear.b.any() and linear.a.abs().max() <= bound and linear.a.std() > 0.5 * bound


def test_dropout_acts_on_the_low_rank_path_alone():
    linear = LoraLinear(torch.nn.Linear(64, 32), rank=8, alpha=16, dropout=0.5).train()
    x = torch.randn(4, 64)
    assert torch.equal(linear(x), linear.base(x))  # B is zero: nothing of what was dropped may show
