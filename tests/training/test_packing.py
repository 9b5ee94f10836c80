"""``pack``: the frozen linears of the top in 8 or 4 bits; what is computed is what the unpacked values say."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

import checkpoints
import tiny
from checkpoints import ENCODER_DECODERS, EVERY, HALF
from stratatune.app.export import export
from stratatune.errors import PlanError
from stratatune.model.artefact import load, load_artefact
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.model.packing import PackedExperts, PackedLinear, pack_top
from stratatune.progress import Reporter
from stratatune.training.predict import Predictor
from stratatune.training.run import train
from tiny import EXPERTS
from tuning import PLANS

pytest.importorskip("bitsandbytes")
QUIET = Reporter(quiet=True)
IDS = torch.arange(3, 15).reshape(2, 6)
MASK = torch.ones_like(IDS)


def saved(folder, family="llama", **sizes):
    model = nn.Module.to(tiny.tiny_decoder(family, **sizes), HALF)
    model.save_pretrained(folder)
    tiny.decoder_tokenizer().save_pretrained(folder)
    return folder


def tuned(folder, plan="2: lora(on=attn)"):
    model = apply(load_base(str(folder), "sequence", num_labels=3).model, plan).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.attached.trained().values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def packed_linears(model):
    return [module for module in model.modules() if isinstance(module, PackedLinear)]


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_it_computes_with_the_unpacked_values(kind, autocast, tmp_path):
    saved(tmp_path)
    model, plain = tuned(tmp_path), tuned(tmp_path)
    pack_top(model.attached, kind)
    assert len(packed_linears(model)) == 2 * 7
    for path, module in model.named_modules():
        if isinstance(module, PackedLinear):
            plain.get_submodule(path).weight.data = module.unpacked()
    with torch.autocast("cpu", dtype=HALF, enabled=autocast):
        logits = [one(input_ids=IDS, attention_mask=MASK).logits for one in (model, plain)]
    assert torch.equal(*logits)
    for one in logits:
        one.float().square().sum().backward()
    for (name, one), other in zip(model.attached.trained().items(), plain.attached.trained().values(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-2 if autocast else 1e-5, atol=1e-6), name
        assert one.grad.any(), name


def shaken(folder, head, plan):
    torch.manual_seed(1)
    model = apply(load_base(str(folder), OBJECTIVES[head]).model, plan).eval()
    for parameter in model.attached.trained().values():
        parameter.data += torch.randn_like(parameter) * 0.05
    return model


OBJECTIVES = {"lm": "causal", "seq2seq_lm": "seq2seq", "masked_lm": "mlm"}


@pytest.mark.parametrize(
    ("family", "plan", "kind"),
    # The first cover every architecture, with packed linears inside wrappers; the last every method (T5 has no biases)
    # where blocks look at the dtype of a linear's weight.
    [
        *(
            (family, ": lora(on=attn,ffn)", kind)
            for family in EVERY
            if family not in EXPERTS
            for kind in ("nf4", "int8")
        ),
        *((family, ": lora(on=attn)", kind) for family in EXPERTS for kind in ("nf4", "int8")),
        *(("t5-gated", plan, "nf4") for plan in PLANS if "bitfit" not in plan),
    ],
)
def test_every_family_computes_with_the_unpacked_values(family, plan, kind, tmp_path):
    """In fp32 and under autocast the numbers are the same, whatever a block asks of a linear."""
    head = checkpoints.saved(tmp_path, family)[1]
    model, plain = shaken(tmp_path, head, plan), shaken(tmp_path, head, plan)
    try:
        pack_top(model.attached, kind)
    except PlanError as error:
        assert "dora" in plan or "no frozen linear" in error.message
        return
    for path, module in model.named_modules():
        if isinstance(module, PackedExperts):
            own = plain.get_submodule(path)
            for name, linears in module.packed.items():
                values = torch.stack([one.unpacked() for one in linears])
                getattr(own, name).data = values.transpose(1, 2) if own.is_transposed else values
        elif isinstance(module, PackedLinear) and ".packed." not in path:
            plain.get_submodule(path).weight.data = unpacked = module.unpacked()
            assert (module.weight.dtype, module.weight.shape) == (unpacked.dtype, unpacked.shape)
    for autocast in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=HALF, enabled=autocast):
            assert torch.equal(*(one(**checkpoints.inputs(family)).logits for one in (model, plain)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_an_encoder_decoder_is_trained_and_scored_packed(family, precision, settings, tmp_path):
    """The trunk ends within the first stack, so linears of both are packed."""
    base, data = tmp_path / "base", tmp_path / "pairs.csv"
    tiny.tiny_encoder_decoder(family, more=0).save_pretrained(base)
    tiny.roberta_tokenizer().save_pretrained(base)
    data.write_text("text,label\n" + "the film is good,good film\nthe book is bad,bad book\n" * 4)
    given = {"model": str(base), "plan": "2: lora(on=attn,ffn)", "objective": "seq2seq", "precision": precision}
    given |= {"train": str(data), "eval": str(data), "out": str(tmp_path / "run"), "pack": "nf4"}
    done = train(settings(**given), reporter=QUIET)
    predictor = Predictor(tmp_path / "run", device="cpu")
    assert packed_linears(predictor.model)
    assert predictor.score(data)["metrics"]["loss"] == pytest.approx(done.best["loss"], rel=1e-2)
    assert len(predictor.predict(["the film is good"]).labels) == 1


def test_the_bytes_of_four_bits(tmp_path):
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    model = tuned(saved(tmp_path, **sizes))
    pack_top(model.attached, "nf4")
    for one in packed_linears(model):
        state = one.state
        extra = (state.absmax, state.state2.absmax)
        held = one.packed.nbytes + sum(tensor.nbytes for tensor in extra)
        assert held <= 0.3 * 2 * one.in_features * one.out_features


def test_a_run_is_loaded_as_it_was_trained(settings, tmp_path):
    base = saved(tmp_path / "base")
    given = {"model": str(base), "plan": "2: lora", "objective": "classification", "out": str(tmp_path / "run")}
    done = train(settings(**given, pack="nf4", epochs=1), reporter=QUIET)
    plain = load(tmp_path / "run", pack=False)
    assert done.total == plain.attached.parameter_count()
    assert len(packed_linears(load_artefact(tmp_path / "run").model)) == 2 * 7
    assert not packed_linears(plain)
    scored = Predictor(tmp_path / "run").score(settings(**given).eval)
    assert scored["metrics"]["accuracy"] == done.best["accuracy"]
    with pytest.raises(PlanError, match="packed"):
        export(load(tmp_path / "run"), tmp_path / "merged", "merged")
    export(plain, tmp_path / "merged", "merged")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers by an old name
def test_stock_peft_over_the_same_quantised_base(tmp_path):
    import peft

    base = saved(tmp_path / "base", hidden_size=128, intermediate_size=256, head_dim=32)
    model = tuned(base, ": lora(on=q,v)")
    export(model, tmp_path / "peft", "peft")
    pack_top(model.attached, "nf4")
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["score"],
    )
    stock = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, quantization_config=four, dtype=torch.bfloat16
    )
    theirs = peft.PeftModel.from_pretrained(stock, str(tmp_path / "peft")).eval()
    with torch.no_grad():
        logits = theirs(input_ids=IDS, attention_mask=MASK).logits.float()
        ours = model(input_ids=IDS, attention_mask=MASK).logits
    assert torch.allclose(logits, ours, rtol=0.02, atol=0.02 * ours.abs().max())


@pytest.mark.parametrize(("plan", "said"), [("2: dora", "dora reads"), ("2: full", "no frozen linear")])
def test_what_cannot_be_packed_is_refused(plan, said, tmp_path):
    model = apply(load_base(str(saved(tmp_path)), "sequence").model, plan)
    with pytest.raises(PlanError, match=said):
        pack_top(model.attached, "nf4")
