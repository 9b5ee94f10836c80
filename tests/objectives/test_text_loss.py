"""The loss of written text: the same in pieces as at once, and no larger in memory than a piece."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from stratatune.data.encoded import IGNORED
from stratatune.objectives import text_loss

VOCAB, AT_ONCE = 50, 170  # three tokens at once


@pytest.fixture
def targets():
    found = torch.randint(VOCAB, (4, 7), generator=torch.Generator().manual_seed(0))
    found[0, 3:] = found[2, 0] = IGNORED
    return found


@pytest.mark.parametrize("whole", [True, False], ids=["all", "bearing"])
@pytest.mark.parametrize("gradient", [True, False])
def test_likelihoods_are_those_of_cross_entropy(whole, gradient, targets, monkeypatch):
    monkeypatch.setattr(text_loss, "_AT_ONCE", AT_ONCE)
    copied, plain = list[int](), text_loss.at_least_fp32
    monkeypatch.setattr(text_loss, "at_least_fp32", lambda part: (copied.append(part.numel()), plain(part))[1])
    logits = torch.randn(*targets.shape, VOCAB, generator=torch.Generator().manual_seed(1)).bfloat16()
    given = logits if whole else logits[targets != IGNORED]
    with torch.set_grad_enabled(gradient):
        found = text_loss.likelihoods(given.requires_grad_(gradient), targets)
    for row, own in enumerate(targets):
        expected = cross_entropy(logits[row].float(), own, ignore_index=IGNORED, reduction="sum")
        assert found[row].tolist() == [pytest.approx(-expected.item(), rel=1e-5), (own != IGNORED).sum()]
    assert sum(copied) == given.numel()
    assert (max(copied) == given.numel()) if gradient else (max(copied) <= AT_ONCE)
    if gradient:
        found[:, 0].sum().backward()
        assert given.grad.abs().sum() > 0


def test_a_batch_without_targets_has_no_loss():
    targets = torch.full((2, 3), IGNORED)
    with torch.no_grad():
        assert text_loss.likelihoods(torch.empty(0, VOCAB), targets).tolist() == [[0, 0], [0, 0]]
