"""The loss of written text: the same in pieces as at once, and no larger in memory than a piece."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from stratatune.data.encoded import IGNORED
from stratatune.model.heads import token_scores
from stratatune.model.heads.token_scores import scores_of
from stratatune.objectives import text_loss

VOCAB, AT_ONCE = 50, 170  # three tokens at once


@pytest.fixture
def targets():
    found = torch.randint(VOCAB, (4, 7), generator=torch.Generator().manual_seed(0))
    found[0, 3:] = found[2, 0] = IGNORED
    return found


@pytest.mark.parametrize("gradient", [True, False])
def test_likelihoods_are_those_of_cross_entropy(gradient, targets, monkeypatch):
    monkeypatch.setattr(token_scores, "_AT_ONCE", AT_ONCE)
    copied, plain = list[int](), torch.Tensor.log_softmax
    monkeypatch.setattr(
        torch.Tensor, "log_softmax", lambda part, **how: (copied.append(part.numel()), plain(part, **how))[1]
    )
    logits = torch.randn(*targets.shape, VOCAB, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.set_grad_enabled(gradient):
        found = text_loss.likelihoods(logits.requires_grad_(gradient), targets)
    check(found, logits, targets)
    assert sum(copied) == logits.numel()
    assert (max(copied) == logits.numel()) if gradient else (max(copied) <= AT_ONCE)
    if gradient:
        found[:, 0].sum().backward()
        assert logits.grad.abs().sum() > 0


def test_scores_of_the_tokens_that_count_are_summed_by_text(targets):
    logits = torch.randn(*targets.shape, VOCAB, generator=torch.Generator().manual_seed(1))
    counted = targets != IGNORED
    scores = scores_of(logits[counted], targets[counted])
    check(text_loss.likelihoods(scores, targets), logits, targets)
    right = (logits.argmax(dim=2) == targets).sum(dim=1)
    assert text_loss.right_tokens(scores, targets).tolist() == right.tolist()


def check(found, logits, targets):
    for row, own in enumerate(targets):
        expected = cross_entropy(logits[row].float(), own, ignore_index=IGNORED, reduction="sum")
        assert found[row].tolist() == [pytest.approx(-expected.item(), rel=1e-5), (own != IGNORED).sum()]


def test_a_batch_without_targets_has_no_loss():
    targets = torch.full((2, 3), IGNORED)
    assert text_loss.likelihoods(torch.empty(0, 2), targets).tolist() == [[0, 0], [0, 0]]
