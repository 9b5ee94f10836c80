"""Every method of the registries on every decoder and encoder-decoder of the table, under each of its heads.

What each promises: identity at the start, trained = counted, no gradient below the frozen depth with and without
checkpointing, trunk and top = the whole model, saved to a folder = loaded from it, merged = unmerged or a reason,
taken off = the base.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import tiny
from asking import logits_at, scores_of
from counting import count_backward_blocks
from stacks import exact_rms_norms, without_dropout
from stratatune.errors import PlanError
from stratatune.model.artefact import load
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.model.merging import merge, remove
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.plan import ARCHITECTURES, BLOCK_METHODS, INSERTIONS, Plan, architecture_of
from stratatune.shapes.relatives import RELATIVES
from tuning import MIXES, PLANS, shake, starts_as_the_base

NO_BIAS = ("trains nothing in a", "has no bias")
TWO_STACKS = ("t5", "t5-gated", "bart")
FAMILIES = (*tiny.WRITERS, *TWO_STACKS)
"""Families whose linears and norms have no bias may refuse BitFit; nothing else may be refused."""
EVERYTHING = (("gpt2", "lm"), ("llama", "lm"), ("t5", "lm"), ("bart", "classes"))
REST = [(f, "lm") for f in FAMILIES if (f, "lm") not in EVERYTHING] + [(f, "classes") for f in ("gpt2", "llama", "t5")]
EMBEDDINGS = "embeddings full | 2: lora"
FEW = ("1: bitfit", MIXES[0], MIXES[2], MIXES[3], EMBEDDINGS)
"""All kinds of methods, put together; each by itself stands in a model of every sort."""
CASES = [(*case, text) for case in EVERYTHING for text in (*PLANS, *MIXES, EMBEDDINGS)] + [
    (*c, text) for c in REST for text in FEW
]
# A file holds tensors by their names, whatever the method, so two of the four are saved with everything.
SAVED = [case for case in CASES if case[0] not in ("llama", "t5") or case[2] in FEW]
MASK = torch.arange(7) < torch.tensor([7, 4, 6])[:, None]
IDS = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(3)).masked_fill(~MASK, 1)
IDS[torch.arange(3), MASK.sum(1) - 1] = 2  # closed, as T5's and BART's classes are read
TARGETS = torch.randint(5, 60, (3, 4), generator=torch.Generator().manual_seed(4))


def base_of(family, head):
    if family in TWO_STACKS:
        kind = "seq2seq" if head == "lm" else "classification"
        return tiny.tiny_encoder_decoder(family, kind, blocks=4, more=0).double()
    return tiny.tiny_decoder(family, "causal" if head == "lm" else "classification").double()


def whole(model):
    """The model's own forward: the logits that the objective reads."""
    two_stacks = bool(model.config.is_encoder_decoder)
    told = {"labels": TARGETS} if two_stacks and hasattr(model, "lm_head") else {}
    out = model(input_ids=IDS, attention_mask=MASK.long(), use_cache=False, **told).logits
    if told:
        return out.log_softmax(-1).gather(2, TARGETS[..., None]).sum((1, 2))
    return out[torch.arange(3), MASK.sum(1) - 1] if out.dim() == 3 else out


def halves(model):
    strata, read = model.attached, MASK.sum(1) - 1
    hidden = Trunk(strata)(IDS, MASK)
    if strata.backbone.row.family != "encoder-decoder":
        return logits_at(strata, hidden, MASK, read)
    if strata.backbone.head.name == "seq2seq_lm":
        return scores_of(strata, hidden, MASK, TARGETS)[:, 0]
    return Top(strata)(hidden, MASK, Question(targets=IDS))


def tuned(family, text, head):
    """The model with its plan; None where BitFit finds no bias."""
    try:
        torch.manual_seed(2)
        return apply(base_of(family, head), tiny.with_experts(family, text)).eval()
    except PlanError as error:
        assert any(reason in error.message for reason in NO_BIAS) and family not in ("gpt2", "bart"), error
        return None


def test_every_row_of_the_table_is_here():
    # Relatives of other rows have tests of their own (model/test_relatives.py).
    rows = {row.name for row in ARCHITECTURES if row.family != "encoder" and row not in RELATIVES}
    configs = [tiny.tiny_decoder(name).config.to_dict() for name in (*tiny.WRITERS, *tiny.STATEFUL)]
    assert rows == {architecture_of(one["model_type"], one).name for one in configs} | set(TWO_STACKS)


def test_the_few_hold_every_kind():
    kinds = {one.kind for text in FEW for one in methods(text)}
    assert kinds | {"frozen"} == {*BLOCK_METHODS, *INSERTIONS}


def methods(text):
    plan = Plan.parse(text)
    return [*(one for stratum in plan.strata for one in stratum.methods), *plan.insertions]


@pytest.mark.parametrize(("family", "head", "text"), CASES)
def test_what_a_method_promises(family, head, text, monkeypatch):
    exact_rms_norms(monkeypatch)
    model, base = tuned(family, text, head), base_of(family, head)
    if model is None:
        return
    with torch.no_grad():
        assert torch.allclose(whole(model), whole(base), atol=1e-12) == starts_as_the_base(text)
        shake(model)
        said = whole(model)
        torch.testing.assert_close(halves(model), said, rtol=0, atol=1e-10)
    _trains_what_it_counts(model, head)
    _back_to_an_ordinary_model(model, base, said, head)


def _trains_what_it_counts(model, head):
    resolved, own = model.attached.resolved, model.attached.backbone.output_layer()
    trained = sum(parameter.numel() for parameter in model.attached.trained().values())
    assert trained == resolved.trainable(model.attached.backbone.head.name) + sum(p.numel() for p in own)
    model = without_dropout(copy.deepcopy(model))
    first = None
    for checkpointing in (False, True):
        if checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable({"use_reentrant": False})
        for run in (whole, halves):
            model.zero_grad(set_to_none=True)
            blocks = count_backward_blocks(model.attached, lambda run=run: run(model).square().sum().backward())
            assert blocks == resolved.backprop_blocks
            found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            assert found.keys() == model.attached.trained().keys()
            first = first or found
            for name, gradient in found.items():
                torch.testing.assert_close(gradient, first[name], rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A family's base model with its language-model head and tokenizer in a folder, each saved once."""
    made = {}

    def folder(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            base_of(family, "lm").float().save_pretrained(made[family])
            (tiny.roberta_tokenizer if family in TWO_STACKS else tiny.decoder_tokenizer)().save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture(scope="module")
def base_in(folder_of):
    """A copy of the model of a family's folder under an objective, and its new modules; each is loaded once."""
    made = {}

    def loaded(family, objective):
        if (family, objective) not in made:
            made[family, objective] = load_base(str(folder_of(family)), objective, num_labels=3)
        base = made[family, objective]
        return copy.deepcopy(base.model), base.new

    return loaded


@pytest.mark.parametrize(("family", "head", "text"), SAVED)
def test_saved_to_a_folder_and_loaded_it_says_the_same(family, head, text, base_in, tmp_path):
    objective = "classification" if head == "classes" else "seq2seq" if family in TWO_STACKS else "causal"
    base, new = base_in(family, objective)
    try:
        model = shake(apply(base, tiny.with_experts(family, text), also_train=new)).eval()
    except PlanError as error:
        assert any(reason in error.message for reason in NO_BIAS) and family not in ("gpt2", "bart"), error
        return
    model.save_pretrained(tmp_path)
    again = load(tmp_path)  # onto a fresh base
    assert again.attached.trained().keys() == model.attached.trained().keys()
    with torch.no_grad():
        for ways in (whole, halves):  # to rounding: where a tensor of a mapped file begins decides the kernel
            torch.testing.assert_close(ways(again), ways(model), rtol=1e-5, atol=1e-6)


def _back_to_an_ordinary_model(model, base, said, head):
    with torch.no_grad():
        plain = whole(base)
    for way, wanted in ((merge, said), (remove, plain)):
        try:
            back = way(copy.deepcopy(model))
        except PlanError as error:
            assert "cannot be" in error.message and "\n" not in error.message
            if "in_memory" not in error.hint:
                continue
            back = merge(copy.deepcopy(model), in_memory=True)
        else:  # what a model of its config has, and nothing else
            assert type(back) is type(base)
            with torch.device("meta"):
                assert back.state_dict().keys() == type(base)(back.config).state_dict().keys()
        if way is merge or head == "lm":  # a classifier's new output layer stays as it was trained
            with torch.no_grad():
                torch.testing.assert_close(whole(back), wanted, rtol=0, atol=1e-10)
