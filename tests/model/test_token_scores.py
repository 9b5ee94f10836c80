"""The scores of tokens by a frozen output matrix: those of its logits, in no more memory than a piece of them takes."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

import tiny
from stratatune.model.attach import apply
from stratatune.model.heads import token_scores as module
from stratatune.model.heads.token_scores import scores_of, token_scores
from stratatune.model.question import Question

ROWS, WIDTH, VOCAB = 11, 8, 50


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=[1, 3, ROWS, 100], ids=lambda rows: f"{rows}-rows-at-once")
def pieces(request, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", request.param * VOCAB)


@pytest.mark.parametrize("cap", [None, 3.0], ids=["plain", "capped"])
@pytest.mark.parametrize("biased", [False, True], ids=["", "bias"])
def test_scores_and_gradients_are_those_of_the_logits(pieces, biased, cap):
    hidden, weight = drawn(ROWS, WIDTH), drawn(VOCAB, WIDTH, seed=1)
    bias = drawn(VOCAB, seed=2) if biased else None
    targets, shares = torch.arange(ROWS) * 3 % VOCAB, drawn(ROWS, seed=3)
    logits = linear(hidden.requires_grad_(), weight, bias)
    targets[0] = logits[0].argmax()
    wanted = scores_of(logits if cap is None else torch.tanh(logits / cap) * cap, targets)
    (gradient,) = torch.autograd.grad((wanted[:, 0] * shares).sum(), hidden)
    found = token_scores(hidden, weight, bias, targets, cap)
    torch.testing.assert_close(found, wanted)
    assert found[0, 1] == 1 and found[:, 1].sum() < ROWS
    torch.testing.assert_close(torch.autograd.grad((found[:, 0] * shares).sum(), hidden)[0], gradient)
    with torch.no_grad():
        assert torch.equal(token_scores(hidden, weight, bias, targets, cap), found)


def test_in_bf16_they_are_those_of_the_rounded_logits(pieces):
    hidden, weight = drawn(ROWS, WIDTH, dtype=torch.float32), drawn(VOCAB, WIDTH, seed=1, dtype=torch.float32)
    targets = torch.arange(ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        found = token_scores(hidden.requires_grad_(), weight, None, targets)
        wanted = scores_of(linear(hidden, weight), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(one[:, 0].mean(), hidden)[0] for one in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=0.02, atol=1e-3)


def test_trials_at_once_have_the_scores_of_each_alone(pieces):
    hidden, weight = drawn(3, ROWS, WIDTH).requires_grad_(), drawn(VOCAB, WIDTH, seed=1)
    targets = torch.arange(ROWS)
    found = torch.vmap(lambda own: token_scores(own, weight, None, targets)[:, 0].mean())(hidden)
    alone = torch.stack([token_scores(own, weight, None, targets)[:, 0].mean() for own in hidden])
    torch.testing.assert_close(found, alone)
    torch.testing.assert_close(*(torch.autograd.grad(one.sum(), hidden)[0] for one in (found, alone)))


def test_no_token_has_no_score():
    assert token_scores(drawn(0, WIDTH), drawn(VOCAB, WIDTH), None, torch.empty(0, dtype=torch.long)).shape == (0, 2)


@pytest.mark.parametrize("name", ["gemma2", "phi", "gpt2"])
@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trained"])
def test_a_head_gives_the_scores_of_its_logits(name, trains):
    model = apply(
        tiny.tiny_decoder(name, blocks=2), "1: lora | head(mlm=decoder, untie)" if trains else "1: lora"
    ).eval()
    head = model.attached.backbone.head
    hidden, mask = drawn(2, 5, model.config.hidden_size, dtype=torch.float32), torch.ones(2, 5, dtype=torch.bool)
    targets = torch.arange(10)
    logits = head.logits(hidden.flatten(0, 1), mask, Question(places=mask))
    found = head.logits(hidden.flatten(0, 1), mask, Question(places=mask, following=targets))
    torch.testing.assert_close(found, scores_of(logits, targets))


def test_memory_holds_no_more_than_a_piece(monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    monkeypatch.setattr(module, "_AT_ONCE", 2 * VOCAB)

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            found = op(*args, **(kwargs or {}))
            sizes = [one.untyped_storage().size() // one.element_size() for one in _tensors(found)]
            self.numel = max(self.numel, *sizes, 0)
            return found

    hidden = drawn(100 * ROWS, WIDTH).requires_grad_()
    weight, targets = drawn(VOCAB, WIDTH), torch.zeros(100 * ROWS, dtype=torch.long)
    with Largest() as seen:
        token_scores(hidden, weight, None, targets)[:, 0].mean().backward()
    assert seen.numel == hidden.numel() < len(hidden) * VOCAB


def _tensors(found):
    return [one for one in (found if isinstance(found, (tuple, list)) else [found]) if isinstance(one, torch.Tensor)]
