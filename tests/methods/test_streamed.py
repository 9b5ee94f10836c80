"""Every method trains above a trunk that is not in memory as it does above one that is, to the bit."""

from __future__ import annotations

import copy

import pytest
import torch

from asking import logits_at, scores_of
from checkpoints import HALF, inputs, saved
from stratatune.errors import StratatuneError
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.model.precision import cast_frozen
from stratatune.model.split import Trunk
from stratatune.model.unread import Unread
from tuning import MIXES, PLANS

FAMILIES = ("roberta", "qwen3", "gpt2", "phi3", "t5")
STEPS = 2  # the second one learns from what the first one left


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Gives ``checkpoint(family)``: a folder with its tiny model in bf16, and our head's name; each saved once."""
    made = {}

    def folder(family):
        if family not in made:
            place = tmp_path_factory.mktemp(family)
            made[family] = place, saved(place, family)[1]
        return made[family]

    return folder


@pytest.fixture(scope="module")
def in_memory(checkpoint):
    """Gives ``in_memory(family)``: a copy of its model, which is loaded once."""
    made = {}

    def model(family):
        if family not in made:
            folder, head = checkpoint(family)
            made[family] = load_base(str(folder), head).model
        return copy.deepcopy(made[family])

    return model


def loaded(folder, head, text, *, autocast, **where):
    return tuned(load_base(str(folder), head, **where).model, text, autocast=autocast)


def tuned(base, text, *, autocast):
    torch.manual_seed(2)  # methods draw their first values
    model = apply(base, text)
    if autocast:
        cast_frozen(model.attached, HALF)
    return model


def loss_of(model, family):
    given = inputs(family)
    ids, mask = given["input_ids"], given["attention_mask"].bool()
    hidden = Trunk(model.attached)(ids, mask)
    if model.attached.backbone.head.name == "seq2seq_lm":
        return scores_of(model.attached, hidden, mask, ids[:, :4]).float().square().mean()
    return logits_at(model.attached, hidden, mask, torch.tensor([1, 3, 4])).float().square().mean()


def trained(model, family, *, autocast):
    """The loss of each step, and what trains behind the last one."""
    losses, own = [], model.attached.trained()
    optimiser = torch.optim.AdamW(own.values(), lr=1e-2)
    torch.manual_seed(3)  # dropout
    model.train()
    for _ in range(STEPS):
        with torch.autocast("cpu", dtype=HALF, enabled=autocast):
            loss = loss_of(model, family)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses, {name: one.detach().clone() for name, one in own.items()}


def waiting(model):
    """The blocks of which a weight is not in memory, by their numbers."""
    blocks = model.attached.backbone.blocks
    return [number for number, block in enumerate(blocks) if any(one.is_meta for one in block.parameters())]


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("text", [*PLANS, *MIXES])
@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_is_resident(checkpoint, in_memory, family, text, autocast):
    folder, head = checkpoint(family)
    try:
        resident = tuned(in_memory(family), text, autocast=autocast)
    except StratatuneError as error:
        pytest.skip(f"refused on {family}: {error.message}")
    resolved = resident.attached.resolved
    depth = resolved.frozen_depth
    if depth == 0 or resolved.trains_embeddings:
        pytest.skip("there is no trunk")
    assert not waiting(resident)
    losses, own = trained(resident, family, autocast=autocast)
    for room in (None, 0):
        model = loaded(folder, head, text, autocast=autocast, unread_below=depth, room_above=room)
        before = waiting(model)
        assert room == 0 or (before and max(before) < depth)
        assert not any(one.is_meta for one in model.attached.trained().values())
        assert losses == (found := trained(model, family, autocast=autocast))[0]
        assert own.keys() == found[1].keys()
        assert all(torch.equal(one, found[1][name]) for name, one in own.items())
        assert waiting(model) == before


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "roberta", "deberta-v2", "t5"])
def test_what_trains_of_a_streamed_top_is_in_memory_and_no_more(checkpoint, family):
    folder, head = checkpoint(family)
    model = loaded(folder, head, "1: lora(on=q,v)", autocast=False, unread_below=1, room_above=0)
    attached = model.attached
    assert waiting(model) == list(range(attached.backbone.border))
    matrices = [
        one
        for block in attached.backbone.blocks[: attached.backbone.border]
        for one in block.parameters()
        if one.dim() == 2 and not one.is_meta
    ]
    planned = {id(one) for one in attached.trained().values()}
    tables = {id(one) for one in attached.backbone.embeddings.parameters()}
    odd = [one for one in matrices if id(one) not in planned | tables]
    assert len(odd) <= (1 if family == "t5" else 0), "T5's first block has the position biases of all"


def test_a_batch_reads_a_block_twice_and_the_last_one_once(checkpoint, monkeypatch):
    folder, head = checkpoint("qwen3")
    model = loaded(folder, head, "1: lora", autocast=False, unread_below=1, room_above=0)
    read, whole = [], Unread.read
    monkeypatch.setattr(Unread, "read", lambda self, one: read.append(self._keys[id(one)]) or whole(self, one))
    hidden = torch.randn(3, 9, model.config.hidden_size)
    mask = torch.ones(3, 9, dtype=torch.bool)

    def step():
        logits_at(model.attached, hidden, mask, torch.tensor([1, 3, 4])).sum().backward()

    step()
    read.clear()
    step()
    names = [key for key in read if key.endswith("q_proj.weight")]
    blocks = len(model.attached.backbone.blocks)
    times = [sum(f".{number}." in key for key in names) for number in range(blocks)]
    assert times[2:] == [*[2] * (blocks - 3), 1]
    # The lowest one is read for the next batch behind its backward pass, by another thread: for the second step once
    # before it was counted or after, and for a third step.
    assert times[0] == 0 and times[1] in (1, 2, 3)
