"""The ONNX file says what the model says, in onnxruntime, for any batch and any length."""

from __future__ import annotations

import copy
import json

import pytest
import torch

import stratatune as st
import tiny
from stratatune.errors import PlanError
from stratatune.model.attach import apply
from stratatune.plan import ARCHITECTURES
from stratatune.shapes.table import architecture_of
from tuning import shake

ort = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

# One of each row: transformers copies the code of the others from it.
ENCODERS = [row.model_types[0] for row in ARCHITECTURES if row.family == "encoder" and row.mlm_head]
PROMPTED = "1: lora(rank=2) + houlsby | late_prompt(depth=1, tokens=3)"
PLANS = {"albert": ": lora(rank=2) + houlsby | late_prompt(depth=1, tokens=3)"}  # its blocks are the same weights
SIZES = ((2, 7), (1, 1), (4, 16), (1, 40))


def made(name, kind, plan, blocks=2):
    """A tuned model with no more blocks than its plan needs: torch's exporter takes a second or more for each."""
    if name in tiny.DECODERS:
        return shake(apply(tiny.tiny_decoder(name, kind, blocks=blocks), plan).eval())
    return shake(apply(tiny.tiny_of(name, kind, **{architecture_of(name).fields.blocks: blocks}), plan).eval())


def given(model, texts, tokens):
    """Ids and mask [B, T]; of several texts the first is shorter."""
    ids = torch.randint(5, 60, (texts, tokens), generator=torch.Generator().manual_seed(texts))
    mask = torch.ones_like(ids)
    if texts > 1:
        mask[0, tokens - 3 :] = 0
        ids[0, tokens - 3 :] = model.config.pad_token_id
    return {"input_ids": ids, "attention_mask": mask}


def differences(model, folder):
    """The largest difference of a logit at a real token, over batches of several sizes."""
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    for size in SIZES:
        inputs = given(model, *size)
        if "token_type_ids" in names:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
            inputs["token_type_ids"][:, size[1] // 2 :] = 1
        with torch.no_grad():
            wanted = model(**inputs).logits
        found = torch.from_numpy(session.run(None, {name: inputs[name].numpy() for name in names})[0])
        if wanted.dim() == 3:
            real = inputs["attention_mask"].bool()
            wanted, found = wanted[real], found[real]
        assert found.shape == wanted.shape
        yield float((found - wanted).abs().max())


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_says_the_same_with_an_adapter_and_a_late_prompt(name, tmp_path):
    kind = "mlm" if name in ("bert", "modernbert") else "classification"
    model = made(name, kind, PLANS.get(name, PROMPTED))  # one block below the prompt, and one above that trains
    st.export(model, tmp_path, to="onnx")
    assert model.attached  # it stays as it is
    assert max(differences(model, tmp_path)) < 2e-5


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("bert", "1: prefix(tokens=2) + ia3 | idpg(tokens=2, phm=4, bottleneck=8) | adapter(depth=2)"),
        ("roberta", ": full | embeddings full"),
        ("modernbert", "1: dora(on=q,k) + parallel | prompt(tokens=2)"),
        ("gpt2", "1: lora + prefix(tokens=2)"),
        ("llama", ": lora + delta_bias | late_prompt(depth=1, tokens=2)"),
    ],
)
def test_every_method_leaves(name, plan, tmp_path):
    model = made(name, "classification", plan)
    st.export(model, tmp_path, to="onnx")
    assert max(differences(model, tmp_path)) < 2e-5


def test_a_base_in_half_precision_leaves_in_fp32(tmp_path):
    half = tiny.tiny_bert("classification", blocks=2).bfloat16()
    wide = apply(copy.deepcopy(half).float(), "1: lora + bitfit").eval()
    model = shake(apply(half, "1: lora + bitfit").eval())
    with torch.no_grad():
        for name, tensor in wide.attached.trained().items():
            tensor.copy_(model.attached.trained()[name])
    st.export(model, tmp_path, to="onnx")
    assert max(differences(wide, tmp_path)) < 2e-5


def test_config_and_tokenizer_stand_beside_it(tmp_path):
    from transformers import AutoConfig, AutoTokenizer

    model = made("bert", "classification", ": lora", blocks=1)
    model.attached.spec = {"labels": ["bad", "fine", "good"]}
    st.export(model, tmp_path, to="onnx", tokenizer=tiny.tiny_tokenizer("bert"))
    assert AutoConfig.from_pretrained(tmp_path).id2label == {0: "bad", 1: "fine", 2: "good"}
    assert AutoTokenizer.from_pretrained(tmp_path)("a good film")["input_ids"]
    assert not (tmp_path / "stratatune.json").exists()  # no objective says how text is read


def test_what_writes_text_has_no_file(tmp_path):
    for base in (tiny.tiny_decoder("gpt2"), tiny.tiny_encoder_decoder("t5")):
        with pytest.raises(PlanError, match="cannot be exported to onnx: .* token by token") as caught:
            st.export(apply(base, "2: lora"), tmp_path / "out", to="onnx")
        assert "peft" in caught.value.hint and not (tmp_path / "out").exists()


def test_int8_is_smaller_and_near(tmp_path):
    from stratatune.exits.onnx_folder import to_int8

    base = tiny.tiny_bert("classification", blocks=2, hidden=64, ffn=256, vocab=2000)
    model = shake(apply(base, "1: lora").eval(), 0.01)
    st.export(model, tmp_path, to="onnx")
    before, after = to_int8(tmp_path)
    assert after < before / 2
    found = max(differences(model, tmp_path))
    assert 0 < found < 0.3
    import onnx

    kinds = {one.data_type for one in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path, monkeypatch):
    from fnmatch import fnmatch

    from stratatune import hub
    from stratatune.exits.onnx_folder import to_int8

    program = pytest.importorskip("torch.onnx._internal.exporter._onnx_program")
    if not hasattr(program, "_LARGE_MODEL_THRESHOLD"):
        pytest.skip("this torch has another limit")
    monkeypatch.setattr(program, "_LARGE_MODEL_THRESHOLD", 10_000)
    model = shake(apply(tiny.tiny_bert("classification", hidden=64, ffn=256, vocab=2000), "2: lora").eval(), 0.01)
    st.export(model, tmp_path, to="onnx", tokenizer=tiny.tiny_tokenizer("bert"))
    names = {path.name for path in tmp_path.iterdir()}
    assert {one for one in names if "onnx" in one} == {"model.onnx", "model.onnx.data"}
    assert all(any(fnmatch(name, wanted) for wanted in hub._WANTED) for name in names)
    assert max(differences(model, tmp_path)) < 2e-5
    whole = sum((tmp_path / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    before, after = to_int8(tmp_path)
    assert before == whole and after < before / 2 and not (tmp_path / "model.onnx.data").exists()
    assert 0 < max(differences(model, tmp_path)) < 0.3


def test_the_record_is_plain_json(tmp_path):
    model = made("bert", "classification", ": lora", blocks=1)
    model.attached.spec = {
        "objective": "classification",
        "text": ["text"],
        "label": "label",
        "metric": "accuracy",
        "labels": ["bad", "fine", "good"],
    }
    st.export(model, tmp_path, to="onnx", tokenizer=tiny.tiny_tokenizer("bert"))
    record = json.loads((tmp_path / "stratatune.json").read_text())
    assert record["inputs"] == ["input_ids", "attention_mask", "token_type_ids"] and record["outputs"] == ["logits"]
