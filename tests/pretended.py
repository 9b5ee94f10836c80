"""Tuned models on an accelerator that is not there: which of them leaves a tensor behind on the host?

    python tests/pretended.py [WORD]        only the cases whose name holds the word

Weights and inputs are torch's fake tensors on a device without kernels: nothing is computed, but every operation checks
that its tensors are on one device, as a GPU's would. In a process of its own, as the device is registered for good.
Prints one JSON object: how many cases there were, and what went wrong in which.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration

import asking
import tiny
from stratatune.cache.codec import Codec
from stratatune.cache.on_device import Resident
from stratatune.errors import PlanError
from stratatune.model.attach import apply
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.plan import ARCHITECTURES
from tuning import MIXES, PLANS

AWAY = "privateuseone"
FAKE = FakeTensorMode(allow_non_fake_inputs=True)  # a real tensor that turns up is one on the host
FEW = (MIXES[0], MIXES[2], "embeddings full | 1: lora")
ALL = ("bert mlm", "llama causal")
"""Tried with every plan; the others with two blocks and few, and those with classes with one, that has prompts."""
MASK = torch.arange(7) < torch.tensor([7, 4, 6])[:, None]
IDS = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(3)).masked_fill(~MASK, 1)
TARGETS = torch.randint(5, 60, (3, 4), generator=torch.Generator().manual_seed(4))


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def away(tensor: Tensor) -> Tensor:
    """On the accelerator."""
    return FAKE.from_tensor(tensor).detach().to(AWAY)


def moved(model: nn.Module) -> nn.Module:
    """What ``model.to(device)`` moves, parameters and buffers, is moved; tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is not None:
                made.setdefault(id(own), nn.Parameter(away(own), requires_grad=own.requires_grad))
                module._parameters[name] = made[id(own)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else away(buffer)
    return model


def logits_of(model: Any) -> Tensor:
    """The top of the trunk, in training and as it is used."""
    strata = model.attached
    ids, mask = away(IDS), away(MASK)
    read = mask.sum(1) - 1
    asked = asking.at(read) if strata.backbone.head.name in ("masked_lm", "lm") else Question()
    asked = Question(targets=away(TARGETS)) if strata.backbone.row.family == "encoder-decoder" else asked
    for training in (True, False):
        model.train(training)
        logits = Top(strata)(Trunk(strata)(ids, mask, None, asked), mask, asked)
        assert logits.device.type == AWAY, f"logits on {logits.device}"
    return logits


def tuned(build: Callable[[], Any], text: str) -> Tensor | None:
    """Logits of a tuned model that was made on the host and moved; None where the plan makes no sense for it."""
    try:
        model = apply(build(), text)
    except PlanError:
        return None
    with FAKE:
        return logits_of(moved(model))


def remembered() -> Tensor:
    """Rows of a cache in the accelerator's memory, as int8 with their scales."""
    counts = np.array([2, 3])
    with FAKE:
        slots, scales = [torch.zeros(5, 4, dtype=torch.int8)], torch.zeros(4)
        resident = Resident(slots, np.array([0, 0]), np.array([0, 2]), counts, torch.device(AWAY))
        return Codec("int8", scales).unpack(resident.get_padded(np.array([1, 0])), torch.float32)


def forgetful() -> Tensor:
    """A model with a tensor that does not move along: this case must fail, or the others tell nothing."""
    model = apply(tiny.tiny_model("bert"), "lora")
    scale = torch.ones(64)
    model.bert.encoder.layer[2].intermediate.register_forward_hook(lambda module, given, out: out * scale)
    with FAKE:
        return logits_of(moved(model))


def cases() -> Iterator[tuple[str, Callable[[], Tensor | None]]]:
    """Everything that is tried, by its name."""
    yield "control", forgetful
    yield "cache", remembered
    builds: dict[str, Callable[[], Any]] = {}
    for row in ARCHITECTURES:
        for name in row.model_types if row.family == "encoder" else ():
            if name != "deberta-v2":  # makes a constant in its forward, which this device cannot take
                for kind in ("mlm", "classification") if row.reads_words else ("classification",):
                    fewer = {} if f"{name} {kind}" in ALL else {row.fields.blocks: 2}
                    builds[f"{name} {kind}"] = lambda name=name, kind=kind, fewer=fewer: tiny.tiny_of(
                        name, kind, **fewer
                    )
    for name in tiny.DECODERS:
        # LongRoPE makes a constant in its forward, too.
        plain = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}} if name == "phi3" else {}
        for kind in ("causal", "classification"):
            given = {**plain, "blocks": 4 if f"{name} {kind}" in ALL else 2}
            builds[f"{name} {kind}"] = lambda name=name, kind=kind, given=given: tiny.tiny_decoder(name, kind, **given)
    for name in ("t5", "t5-gated", "bart"):
        builds[f"{name} seq2seq"] = lambda name=name: tiny.tiny_encoder_decoder(name, blocks=2, more=0)
    for name, build in builds.items():
        few = FEW[1:2] if name.endswith("classification") else FEW
        for text in (*PLANS, *MIXES, FEW[-1]) if name in ALL else few:
            yield f"{name}: {text}", lambda build=build, text=text: tuned(build, text)


def main() -> None:
    """Try them, and say what went wrong."""
    warnings.simplefilter("ignore")
    backend_registration._setup_privateuseone_for_python_backend(backend_module=_Module())
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [(name, run) for name, run in cases() if wanted in name]
    faults: dict[str, str] = {}
    for name, run in chosen:
        try:
            run()
        except Exception as error:
            faults[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    print(json.dumps({"cases": len(chosen), "faults": faults}))


if __name__ == "__main__":
    main()
