"""Tiny models with random weights and their tokenizers, made on the spot: every test of a model starts here.

The weights depend on the seed alone. Biases and norms are shaken too, so a part that is forgotten shows in the numbers.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
)

from stratatune.shapes.table import architecture_of

Kind = Literal["mlm", "classification"]
Family = Literal["bert", "roberta"]

MAX_TOKENS = 64

# Every word below is one token: after a space in RoBERTa's byte-level BPE, in lower case in BERT's WordPiece.
CORPUS = """
a an and are at be but by can do for from has have he in is it of on or she so that the they this to was we were with
you great terrible good bad yes no maybe fine poor best worst positive negative neutral neither similar different
sentence question answer statement text review topic film movie book story food price day night time city country person
man woman child name number word place thing what when where which who why how many much long far
abbreviation description entity expression human location numeric object subjective objective
likes like loves hates reads read writes saw went made makes gave runs eats not never always very really quite too
red blue green small big old new happy sad slow fast one two three four five six first last left right
correct incorrect acceptable unacceptable true false same since then because also however indeed besides
. , ? ! ; : ' " - ( )
""".split()
WORDS = sorted({*CORPUS, *(word.capitalize() for word in CORPUS)})

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


@functools.cache  # nobody changes it: PreTrainedTokenizerFast copies what it is given
def _word_pieces() -> Tokenizer:
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [*BERT_SPECIAL, *characters, *(f"##{c}" for c in characters), *(word for word in WORDS if word.islower())]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer: the corpus as whole words, and every printable ASCII character as a piece."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_word_pieces(),
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


@functools.cache
def _byte_pairs() -> Tokenizer:
    vocab = {piece: number for number, piece in enumerate(ROBERTA_SPECIAL)}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[character] = len(vocab)
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        spelled = "Ġ" + word
        for end in range(1, len(spelled)):
            merges[spelled[:end], spelled[end]] = None
            vocab.setdefault(spelled[: end + 1], len(vocab))
    vocab["<mask>"] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B:0 </s>",
        special_tokens=[("<s>", vocab["<s>"]), ("</s>", vocab["</s>"])],
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose merges spell each corpus word, with its leading space, from left to right."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(),
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )


def tiny_bert(
    kind: Kind = "mlm",
    *,
    blocks: int = 4,
    hidden: int = 32,
    heads: int = 4,
    ffn: int = 64,
    vocab: int | None = None,
    labels: int = 3,
    seed: int = 0,
    **config: Any,
) -> PreTrainedModel:
    """A BERT in eval mode; ``vocab=None`` fits ``bert_tokenizer()``, ``labels=1`` makes a regression head."""
    settings = BertConfig(
        vocab_size=vocab or _word_pieces().get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=ffn,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=0,
        num_labels=labels,
        initializer_range=0.1,
        **config,
    )
    model_class = BertForMaskedLM if kind == "mlm" else BertForSequenceClassification
    return _build(model_class.__name__, model_class, settings, seed)


def tiny_roberta(
    kind: Kind = "mlm",
    *,
    blocks: int = 4,
    hidden: int = 32,
    heads: int = 4,
    ffn: int = 64,
    vocab: int | None = None,
    labels: int = 3,
    seed: int = 0,
    **config: Any,
) -> PreTrainedModel:
    """A RoBERTa in eval mode; ``vocab=None`` fits ``roberta_tokenizer()``, ``labels=1`` makes a regression head."""
    settings = RobertaConfig(
        vocab_size=vocab or _byte_pairs().get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=ffn,
        max_position_embeddings=MAX_TOKENS + 2,  # positions start after the padding number, 1
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        num_labels=labels,
        initializer_range=0.1,
        **config,
    )
    model_class = RobertaForMaskedLM if kind == "mlm" else RobertaForSequenceClassification
    return _build(model_class.__name__, model_class, settings, seed)


def tiny_model(family: Family, kind: Kind = "mlm", **settings: Any) -> PreTrainedModel:
    """The tiny model of a family."""
    return {"bert": tiny_bert, "roberta": tiny_roberta}[family](kind, **settings)


def tiny_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """The tokenizer of a family's tiny model."""
    return {"bert": bert_tokenizer, "roberta": roberta_tokenizer}[family]()


def save_tiny(folder: Path, family: Family, kind: Kind = "mlm", **settings: Any) -> Path:
    """Saves a tiny model with its tokenizer, so that ``from_pretrained(folder)`` works."""
    tiny_model(family, kind, **settings).save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    return folder


_BUILT: dict[str, PreTrainedModel] = {}
_MOST = 64  # models that are kept


def _build(name: str, make: Callable[[Any], PreTrainedModel], config: Any, seed: int) -> PreTrainedModel:
    """A copy of the model that ``make``, called ``name``, gives: a copy takes half the time of a new one, or less."""
    where = f"{torch.get_default_device()} {torch.get_default_dtype()}"
    key = f"{name} {seed} {where} {type(config).__name__} {sorted(vars(config).items())}"
    if key not in _BUILT:
        while len(_BUILT) >= _MOST:
            del _BUILT[next(iter(_BUILT))]
        _BUILT[key] = _new(make, config, seed)
    return copy.deepcopy(_BUILT[key])


def _new(make: Callable[[Any], PreTrainedModel], config: Any, seed: int) -> PreTrainedModel:
    """Builds on the CPU from the seed alone, leaving the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = make(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases start at 0 and norms at 1 otherwise
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


_SIZES = {"blocks": 4, "hidden": 32, "ffn": 48, "heads": 4, "vocab": 320, "types": 2, "embedding": 16, "distinct": 1}
_SPECIAL = {
    "deberta-v2": {
        **{"relative_attention": True, "position_buckets": 8, "max_relative_positions": -1, "share_att_key": True},
        **{"pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "position_biased_input": False},
    },
    "modernbert": {"local_attention": 4, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
}
"""What makes a tiny model of a type behave as the real ones do."""


def tiny_of(model_type: str, kind: Kind = "mlm", *, labels: int = 3, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A tiny model of any type in the backbone table, in eval mode, with a vocabulary of 320 numbers; padding is 1."""
    row = architecture_of(model_type)
    sizes = {**_SIZES, "positions": MAX_TOKENS + row.position_offset}
    named = {theirs: sizes[ours] for ours, theirs in vars(row.fields).items() if theirs and ours in sizes}
    common = {"pad_token_id": 1, "num_labels": labels, "initializer_range": 0.1}
    settings = AutoConfig.for_model(model_type, **{**named, **common, **_SPECIAL.get(model_type, {}), **config})
    auto = AutoModelForMaskedLM if kind == "mlm" else AutoModelForSequenceClassification
    return _build(auto.__name__, auto.from_config, settings, seed)


DECODERS = (
    "gpt2",
    "llama",
    "smollm3",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "olmo2",
    "olmo3",
    "phi3",
    "phi",
    "ministral",
    "ministral3",
    "arcee",
    "seed_oss",
    "hunyuan_v1_dense",
    "exaone4",
    "glm4",
    "starcoder2",
    "gpt_neox",
    "pythia",
)
EXPERTS = ("qwen3_moe", "mixtral", "olmoe", "gpt_oss", "granitemoe", "gemma4_moe")
"""Those whose blocks have experts, most in place of a feed-forward part."""
WRITERS = (*DECODERS, "granite", "cohere2", "gemma4_text", *EXPERTS)
"""Those of which transformers has a class with an LM head, and perhaps none with a classifier."""
STATEFUL = ("qwen3_5_text", "lfm2", "qwen3_5_moe_text", "lfm2_moe")
"""Those whose blocks in part carry a state in place of attention."""


_TYPES = {"gemma4_moe": "gemma4_text", "pythia": "gpt_neox"}
"""The model types of layouts that have a row of their own."""
_DECODER_SPECIAL: dict[str, dict[str, Any]] = {
    "olmo3": {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {
                **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "attention_factor": 1.2},
                **{"original_max_position_embeddings": MAX_TOKENS // 8, "beta_fast": 32.0, "beta_slow": 1.0},
            },
        }
    },
    "phi3": {
        "max_position_embeddings": 4 * MAX_TOKENS,
        "original_max_position_embeddings": MAX_TOKENS,
        "rope_parameters": {
            **{"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
            **{"short_factor": [1.0, 1.1, 1.3], "long_factor": [1.0, 2.0, 4.0]},
        },
    },
    "phi": {"num_key_value_heads": 4},
    "gpt_neox": {"use_parallel_residual": False},
    "ministral3": {
        "rope_parameters": {
            **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0},
            # So few tokens that the scale of queries shows.
            **{
                "llama_4_scaling_beta": 0.1,
                "original_max_position_embeddings": 4,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        }
    },
    "seed_oss": {"attention_out_bias": True, "residual_dropout": 0.0},
    "qwen3_5_text": {
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8},
        **{
            "linear_value_head_dim": 4,
            "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        },
    },
    "lfm2": {"layer_types": ["conv", "conv", "conv", "full_attention"], "block_multiple_of": 8},
    "qwen3_moe": {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 6, "num_experts_per_tok": 3},
    "gpt_oss": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "gemma4_text": {"global_head_dim": 16, "hidden_size_per_layer_input": 0, "final_logit_softcapping": 5.0},
    "granite": {
        **{"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.25},
        "logits_scaling": 8.0,
    },
    "granitemoe": {"num_local_experts": 5, "num_experts_per_tok": 2},
}
_DECODER_SPECIAL["gemma4_moe"] = _DECODER_SPECIAL["gemma4_text"] | {
    **{"enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 24},
}
_DECODER_SPECIAL["granitemoe"] |= _DECODER_SPECIAL["granite"]
_DECODER_SPECIAL["qwen3_5_moe_text"] = _DECODER_SPECIAL["qwen3_5_text"] | {
    **{"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "shared_expert_intermediate_size": 16,
}
_DECODER_SPECIAL["lfm2_moe"] = _DECODER_SPECIAL["lfm2"] | {
    **{"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "num_dense_layers": 1},
}
"""What makes a tiny decoder behave as the real ones do."""


def with_experts(family: str, plan: str) -> str:
    """The plan for a family whose blocks may have experts in place of up, gate and down."""
    if family not in (*EXPERTS, "lfm2_moe") or family == "gemma4_moe":
        return plan
    others = {",down)": ")", "full(on=ffn)": "full(on=experts)", "houlsby": "houlsby(on=o)", " + parallel(on=ffn)": ""}
    for name, other in others.items():
        plan = plan.replace(name, other)
    return plan.replace("parallel +", "parallel(on=attn) +")


def tiny_decoder(
    family: str, kind: Literal["causal", "classification"] = "causal", *, blocks: int = 4, seed: int = 0, **config: Any
) -> PreTrainedModel:
    """A decoder in eval mode over ``decoder_tokenizer()``, with grouped queries wherever the family has them."""
    vocab = config.pop("vocab", None) or _byte_pairs().get_vocab_size()
    common = {"vocab_size": vocab, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "initializer_range": 0.1}
    if family == "gpt2":
        sizes: dict[str, Any] = {"n_layer": blocks, "n_embd": 32, "n_head": 4, "n_positions": MAX_TOKENS}
    else:
        sizes = {"num_hidden_layers": blocks, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
        sizes |= {"head_dim": 8, "intermediate_size": 48, "max_position_embeddings": MAX_TOKENS}
    settings = AutoConfig.for_model(
        _TYPES.get(family, family),
        **{**common, **sizes, "num_labels": 3, **_DECODER_SPECIAL.get(family, {}), **config},
    )
    auto = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    if family in EXPERTS or "moe" in family:
        settings._experts_implementation = "eager"  # the default one takes no fp64
    return _build(f"{auto.__name__} fp32", lambda given: auto.from_config(given, dtype=torch.float32), settings, seed)


def decoder_tokenizer() -> PreTrainedTokenizerFast:
    """RoBERTa's byte-level BPE without mask, pairs and closing token, as decoders have it; ``<s>`` opens a text."""
    made = roberta_tokenizer()
    backend = made.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )


def save_tiny_decoder(folder: Path, family: str, **settings: Any) -> Path:
    """Saves a tiny decoder with its tokenizer, so that ``from_pretrained(folder)`` works."""
    tiny_decoder(family, **settings).save_pretrained(folder)
    decoder_tokenizer().save_pretrained(folder)
    return folder


def tiny_encoder_decoder(
    family: Literal["t5", "t5-gated", "bart"],
    kind: Literal["seq2seq", "classification"] = "seq2seq",
    *,
    blocks: int = 3,
    more: int = 1,
    seed: int = 0,
    **config: Any,
) -> PreTrainedModel:
    """A T5 (plain or gated) or BART over ``roberta_tokenizer()``: ``blocks`` below, ``more`` more above.

    transformers 5.23 generates with T5 only where both stacks are equally deep (``more=0``).
    """
    common = {"vocab_size": _byte_pairs().get_vocab_size(), "d_model": 32, "pad_token_id": 1, "eos_token_id": 2}
    if family == "bart":
        sizes: dict[str, Any] = {
            "encoder_layers": blocks,
            "decoder_layers": blocks + more,
            "encoder_attention_heads": 4,
        }
        sizes |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "init_std": 0.1}
        sizes |= {"max_position_embeddings": MAX_TOKENS, "decoder_start_token_id": 2, "bos_token_id": 0}
    else:
        sizes = {"num_layers": blocks, "num_decoder_layers": blocks + more, "num_heads": 4, "d_kv": 6, "d_ff": 48}
        sizes |= {"feed_forward_proj": "gated-gelu" if family == "t5-gated" else "relu", "decoder_start_token_id": 1}
    settings = AutoConfig.for_model(family.removesuffix("-gated"), **{**common, **sizes, "num_labels": 3, **config})
    auto = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForSequenceClassification
    if family in EXPERTS or "moe" in family:
        settings._experts_implementation = "eager"  # the default one takes no fp64
    return _build(f"{auto.__name__} fp32", lambda given: auto.from_config(given, dtype=torch.float32), settings, seed)


def tiny_composite(model_type: str, *, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A language model beside a tower for images, all of them tiny: ``gemma3``, ``mistral3`` or ``llava``.

    ``config``: further settings of the language model.
    """
    sizes = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"head_dim": 8, "intermediate_size": 48, "max_position_embeddings": MAX_TOKENS, "sliding_window": 16}
    text, tower, more = _COMPOSITES[model_type]
    words = {"vocab_size": _byte_pairs().get_vocab_size(), "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    seen = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    special = _DECODER_SPECIAL.get(text, {})
    settings = AutoConfig.for_model(
        model_type,
        text_config={"model_type": text, "initializer_range": 0.1, **sizes, **words, **special, **config},
        vision_config={"model_type": tower, "image_size": 28, "patch_size": 14, **seen},
        **more,
    )
    return _build("composite", AutoModelForImageTextToText.from_config, settings, seed)


_COMPOSITES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gemma3": ("gemma3_text", "siglip_vision_model", {"mm_tokens_per_image": 4}),
    "mistral3": ("mistral", "pixtral", {}),
    "llava": ("llama", "siglip_vision_model", {"tie_word_embeddings": False}),
    "qwen3_5": ("qwen3_5_text", "qwen3_5_vision", {}),
    "qwen3_5_moe": ("qwen3_5_moe_text", "qwen3_5_moe_vision", {}),
    "gemma4": ("gemma4_text", "gemma4_vision", {"audio_config": None}),
}
"""Type of the language model and of the tower, and further settings."""


def save_tiny_composite(folder: Path, model_type: str, **settings: Any) -> Path:
    """Saves a tiny composite with its tokenizer, so that ``from_pretrained(folder)`` works."""
    tiny_composite(model_type, **settings).save_pretrained(folder)
    decoder_tokenizer().save_pretrained(folder)
    return folder
