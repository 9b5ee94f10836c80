"""The backward pass stops at the frozen depth: counted in the autograd engine, not assumed."""

from __future__ import annotations

import warnings

import pytest
import torch

import tiny
from counting import count_backward_blocks
from stratatune.model.attach import apply

REENTRANT = {"none": None, "reentrant": True, "not reentrant": False}


def set_checkpointing(model, mode):
    """By transformers' own functions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5.23 gave both functions a second name
        model.gradient_checkpointing_disable()
        if REENTRANT[mode] is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": REENTRANT[mode]})


def settings():
    """Everything that a caller may turn on, in an order in which each leaves the ones before it on."""
    for inputs_require_grads in (False, True):
        for mode in REENTRANT:
            for way in ("whole", "split"):
                yield inputs_require_grads, mode, way


def test_backward_goes_through_the_promised_blocks(family, kind, preset, tuned, make_inputs):
    model, inputs = tuned(family, kind, preset).train(), make_inputs(family, kind)
    resolved, trained = model.attached.resolved, model.attached.trained()
    assert resolved.backprop_blocks == resolved.shape.blocks - resolved.frozen_depth
    for inputs_require_grads, mode, way in settings():
        case = f"inputs require grads: {inputs_require_grads}, checkpointing: {mode}, {way}"
        set_checkpointing(model, mode)
        if inputs_require_grads:
            model.enable_input_require_grads()
        model.zero_grad(set_to_none=True)

        def run(way=way):
            inputs.loss(inputs.whole(model, kind) if way == "whole" else inputs.split(model)).backward()

        assert count_backward_blocks(model.attached, run) == resolved.backprop_blocks, case
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == (name in trained), f"{case}: {name}"


def test_checkpointing_changes_no_gradient(family, preset, tuned, make_inputs):
    model, inputs = tuned(family, "classification", preset).train(), make_inputs(family, "classification")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    wanted = inputs.gradients(model, inputs.whole(model, "classification"))
    for mode in ("reentrant", "not reentrant"):
        set_checkpointing(model, mode)
        found = inputs.gradients(model, inputs.whole(model, "classification"))
        assert found.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], atol=1e-6, rtol=1e-4)


def test_the_counter_counts(family, make_inputs):
    """Without a plan's cut, a frozen model whose embeddings require gradients is gone through to the bottom."""
    model, inputs = apply(tiny.tiny_model(family), "embeddings full"), make_inputs(family, "mlm")
    assert count_backward_blocks(model.attached, lambda: inputs.loss(inputs.whole(model, "mlm")).backward()) == 4
    assert count_backward_blocks(model.attached, lambda: inputs.whole(model, "mlm")) == 0


@pytest.mark.parametrize("depth", range(5))
def test_an_adapter_at_each_depth(family, depth, tuned, make_inputs):
    model, inputs = tuned(family, "mlm", f"adapter(depth={depth})"), make_inputs(family, "mlm")
    for logits in (inputs.whole, lambda model, kind: inputs.split(model)):
        blocks = count_backward_blocks(model.attached, lambda run=logits: inputs.loss(run(model, "mlm")).backward())
        assert blocks == model.attached.resolved.backprop_blocks == 4 - depth
