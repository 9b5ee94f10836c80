"""Working copies and the optimiser that clips: the numbers of autocast and of torch's AdamW."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from stratatune.training.optimiser import ClippingAdamW, clip_and_step, gradients_of
from stratatune.training.working import WorkingCopies

GROUPS = {"lr": 1e-2, "weight_decay": 0.1}


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(300, 301), nn.LayerNorm(301), nn.GELU(), nn.Linear(301, 5))


def learn(model, optimiser, clip, steps=4):
    """Gives the norms and the gradients of each step, and steps by gradients that are given.

    Products in bf16 round otherwise on another processor, and AdamW makes a whole step of the smallest gradient.
    """
    generator = torch.Generator().manual_seed(1)
    norms, found = [], []
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(torch.randn(8, 300, generator=generator)).float().square().mean()
        loss.backward()
        gradients = gradients_of(optimiser)
        found.append([gradient.clone().float() for gradient in gradients])
        for gradient in gradients:
            gradient.copy_(torch.randn(gradient.shape, generator=generator).bfloat16())
        norms.append(clip_and_step(optimiser, gradients, clip, float(loss.detach())))
    return norms, found


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_numbers_are_those_of_autocast_and_of_torchs_adamw(clip, transposed):
    plain, ours = small(), small()
    if transposed:  # as the linears that GPT-2's layers are taken apart into
        for model in (plain, ours):
            model[0].weight.data = model[0].weight.data.t().contiguous().t()
        assert not ours[0].weight.is_contiguous()
    stock = torch.optim.AdamW([{"params": plain.parameters(), **GROUPS}], fused=True)
    copies = WorkingCopies(ours.modules(), torch.bfloat16)
    assert len(copies.by_master) == 2
    own = ClippingAdamW([{"params": list(ours.parameters()), **GROUPS}], eps=1e-8, copies=copies.by_master)
    (norms, found), (want_norms, want) = learn(ours, own, clip), learn(plain, stock, clip)
    assert norms == pytest.approx(want_norms, rel=1e-5)
    for one, other in zip(itertools.chain(*found), itertools.chain(*want), strict=True):
        torch.testing.assert_close(one, other, rtol=2**-6, atol=2**-7 * float(other.abs().max()))
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
        assert one.dtype == torch.float32
        for name in ("exp_avg", "exp_avg_sq", "step"):
            torch.testing.assert_close(own.state[one][name], stock.state[other][name], rtol=1e-4, atol=1e-9)
    for master, copied in copies.by_master.items():
        assert torch.equal(copied, master.bfloat16())


def test_a_copy_is_read_and_goes_again():
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copies = WorkingCopies(model.modules(), torch.bfloat16)
    assert model[0].weight.dtype == torch.bfloat16
    assert {name: value.dtype for name, value in model.named_parameters()}["0.weight"] == torch.float32
    with torch.no_grad():
        dict(model.named_parameters())["0.weight"].mul_(2)
    copies.refresh()
    assert torch.equal(model[0].weight, (2 * before["0.weight"]).bfloat16())
    copies.remove()
    assert model[0].weight.dtype == torch.float32 and not copies.by_master


def test_no_step_is_made_by_numbers_that_are_not_finite():
    model = small()
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.0)
    model(torch.full((2, 300), float("inf"))).sum().backward()
    assert not torch.isfinite(torch.tensor(clip_and_step(optimiser, gradients_of(optimiser), 1.0, 1.0)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not gradients_of(optimiser)


def test_a_run_leaves_no_copy_behind_and_scores_as_its_adapter(run, settings, tmp_path):
    from stratatune.training.predict import Predictor

    result = run(plan="2: full", precision="bf16", objective="classification")
    found = Predictor(tmp_path / "run").score(settings().eval)["metrics"]
    assert {name: found[name] for name in result.best} == pytest.approx(result.best)
