"""Equality with stock peft (LoRA: test_lora.py), in fp64, with copied weights that are not zero, on padded batches."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import tiny
from stratatune._compat import cache_argument
from stratatune.methods import prefix as prefix_method
from stratatune.methods.site import Site
from stratatune.plan import Prefix
from tuning import batch, read_at, shake, tuned, whole

peft = pytest.importorskip("peft")
pytestmark = [  # how peft asks transformers
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
]

TARGETS = {  # our roles, and the ends of their paths in BERT and RoBERTa
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "up": "intermediate.dense",
    "down": r"layer\.\d+\.output.dense",
}


def pattern(*roles):
    return ".*(" + "|".join(TARGETS[role] for role in roles) + ")"


def theirs(family, config, kind="mlm"):
    """peft's model of the same base, moved away from where it starts."""
    torch.manual_seed(3)
    model = peft.get_peft_model(tiny.tiny_model(family, kind).double(), config, autocast_adapter_dtype=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def same(ours, other, inputs, read):
    with torch.no_grad():
        logits = other(**inputs).logits
        theirs = logits if logits.dim() == 2 else logits[torch.arange(len(read)), read]
        torch.testing.assert_close(whole(ours, inputs, read), theirs, rtol=0, atol=1e-10)


@torch.no_grad()
def copy_roles(ours, other, names):
    """Copies peft's tensors into ours: ``names`` maps our name on a wrapper to the end of theirs."""
    found = dict(other.named_parameters())
    copied = 0
    for name, parameter in ours.attached.trained().items():
        path, _, leaf = name.rpartition(".")
        if leaf in names:
            theirs = found[f"base_model.model.{path}.{names[leaf]}"]
            parameter.copy_(theirs.view(parameter.shape))
            copied += 1
    assert copied == len(ours.attached.trained()) > 0
    assert copied == sum(parameter.requires_grad for parameter in other.parameters())


@pytest.mark.parametrize("roles", ["q,v", "q,k,v,o,up,down"])
def test_dora(family, roles):
    config = peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=pattern(*roles.split(",")))
    other = theirs(family, config)
    ours = tuned(family, f": dora(rank=4, alpha=6, on={roles})")
    magnitude = "lora_magnitude_vector.default.weight"
    copy_roles(ours, other, {"a": "lora_A.default.weight", "b": "lora_B.default.weight", "magnitude": magnitude})
    same(ours, other, batch(family), read_at("mlm"))


def test_dora_gives_the_gradients_of_peft(family):
    config = peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=pattern("q", "down"))
    other, ours = theirs(family, config), tuned(family, ": dora(rank=4, alpha=6, on=q,down)")
    names = {"a": "lora_A.default.weight", "b": "lora_B.default.weight"}
    names["magnitude"] = "lora_magnitude_vector.default.weight"
    copy_roles(ours, other, names)
    for model in (ours, other):
        model(**batch(family)).logits.square().mean().backward()
    found = dict(other.named_parameters())
    for name, parameter in ours.attached.trained().items():
        path, _, leaf = name.rpartition(".")
        gradient = found[f"base_model.model.{path}.{names[leaf]}"].grad
        torch.testing.assert_close(parameter.grad, gradient.view(parameter.shape), rtol=1e-9, atol=1e-12)


def test_ia3(family):
    config = peft.IA3Config(target_modules=pattern("k", "v", "down"), feedforward_modules=pattern("down"))
    other, ours = theirs(family, config), tuned(family, ": ia3")
    copy_roles(ours, other, {"vector": "ia3_l.default"})
    same(ours, other, batch(family), read_at("mlm"))


@pytest.mark.parametrize("types", [False, True])
def test_prompt_tuning(family, types):
    """peft gives its prompt to a classifier; behind it, the class is read at the first position: a prompt's.

    Ours reads the text's own first token, so the hidden states are compared.
    """
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=5)
    torch.manual_seed(3)
    base = tiny.tiny_model(family).double().base_model
    other = peft.get_peft_model(base, config, autocast_adapter_dtype=False).eval()
    ours, inputs = tuned(family, "prompt(tokens=5)"), batch(family)
    inputs.pop("token_type_ids", None)
    if types and family == "bert":  # peft's encoders take no types in FEATURE_EXTRACTION: give them to the base itself
        second = torch.arange(inputs["input_ids"].shape[1]) > 3
        inputs["token_type_ids"] = second.long().expand_as(inputs["input_ids"])
    with torch.no_grad():
        vectors = other.prompt_encoder.default.embedding.weight
        vectors.copy_(torch.randn_like(vectors))
        ours.attached.trained()[next(iter(ours.attached.trained()))].copy_(vectors)
        found = ours.base_model(**inputs).last_hidden_state
        expected = _prompted(other, base, inputs, vectors, types)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[:, 5:][real], rtol=0, atol=1e-10)


def _prompted(other, base, inputs, vectors, types):
    if "token_type_ids" not in inputs:
        return other(**inputs).last_hidden_state
    rows = len(inputs["input_ids"])
    words = base.get_input_embeddings()(inputs["input_ids"])
    return base(
        inputs_embeds=torch.cat([vectors.expand(rows, -1, -1), words], dim=1),
        attention_mask=torch.nn.functional.pad(inputs["attention_mask"], (5, 0), value=1),
        token_type_ids=torch.nn.functional.pad(inputs["token_type_ids"], (5, 0), value=0),
    ).last_hidden_state


def test_prompt_tuning_of_a_masked_model_reads_the_shifted_position(family):
    """The same words and prompt through the base's own ``inputs_embeds``: the logits at the mask, P positions on."""
    ours, inputs, read = shake(tuned(family, "prompt(tokens=4)")), batch(family), read_at("mlm")
    inputs.pop("token_type_ids", None)
    base = tiny.tiny_model(family).double()
    (vectors,) = ours.attached.trained().values()
    with torch.no_grad():
        words = base.get_input_embeddings()(inputs["input_ids"])
        mask = torch.nn.functional.pad(inputs["attention_mask"], (4, 0), value=1)
        logits = base(inputs_embeds=torch.cat([vectors.expand(3, -1, -1), words], 1), attention_mask=mask).logits
        found = whole(ours, inputs, read)
    torch.testing.assert_close(found, logits[torch.arange(3), read + 4], rtol=0, atol=1e-10)


LLAMA = {role: f"self_attn.{role}_proj" for role in "qkvo"}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_prefix_tuning_of_a_decoder(attention, padded, kv_heads):
    """Against peft's keys and values in the cache, which move the tokens on by P; ours are told to stand there."""
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=kv_heads,
        intermediate_size=48, max_position_embeddings=64, attn_implementation=attention, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    base = LlamaForCausalLM(config).double().eval()
    ids = torch.randint(1, 50, (2, 7))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 5:] = 0
    with torch.no_grad():
        plain = base(input_ids=ids, attention_mask=mask).logits
    settings = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, num_attention_heads=kv_heads, token_dim=8 * kv_heads
    )
    other = peft.get_peft_model(base, settings, autocast_adapter_dtype=False).eval()
    with torch.no_grad():
        other.prompt_encoder.default.embedding.weight.normal_()
        expected = other(input_ids=ids, attention_mask=mask).logits
    sites = [Site(block, LLAMA, f"block {number}") for number, block in enumerate(base.model.layers)]
    # peft's table: [P, L, keys or values, width]
    table = other.prompt_encoder.default.embedding.weight.view(5, 3, 2, kv_heads * 8)
    for number, site in enumerate(sites):
        key, value = prefix_method.attach(Prefix(tokens=5), site)
        assert key.numel() + value.numel() == 5 * 2 * kv_heads * 8
        key.data, value.data = table[:, number, 0].detach().clone(), table[:, number, 1].detach().clone()
    places = torch.arange(5, 12).expand_as(ids)
    with torch.no_grad():
        found = base(input_ids=ids, attention_mask=mask, position_ids=places).logits
        real = mask.bool()
        torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-10)
        for site in sites:
            prefix_method.detach(Prefix(tokens=5), site)
        assert torch.equal(base(input_ids=ids, attention_mask=mask).logits, plain)


def test_prefix_keeps_a_decoders_cache():
    """Token by token with a key-value cache is the text at once: the prefix is never in the cache, and always seen."""
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, pad_token_id=0
    )
    torch.manual_seed(0)
    base = LlamaForCausalLM(config).double().eval()
    for block in base.model.layers:
        for vectors in prefix_method.attach(Prefix(tokens=3), Site(block, LLAMA, "")):
            torch.nn.init.normal_(vectors)
    ids = torch.randint(1, 50, (2, 6))
    with torch.no_grad():
        at_once = base(input_ids=ids).logits
        cache, steps = {cache_argument(base): DynamicCache(config=config)}, []
        for place in range(6):
            steps.append(base(input_ids=ids[:, place : place + 1], use_cache=True, **cache).logits)
    torch.testing.assert_close(torch.cat(steps, 1), at_once, rtol=0, atol=1e-10)
