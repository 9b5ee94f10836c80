"""Named plans: every method of both papers as the text of a plan.

A preset's name takes one suffix (``+norm2``, ``+ffd``, ``+ln``: from where in the last block the weights train) and
``@depth`` (where its insertion goes): ``bft-adapter+ln@18``. Without ``@depth`` it is where the paper put it in
24 blocks, as a fraction, so that it scales.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from stratatune.errors import PlanError, did_you_mean, shown
from stratatune.shapes.table import is_known

_PROMPT, _ADAPTER = "late_prompt(depth={depth})", "adapter(depth={depth})"
_MLM_HEAD = "head(mlm=dense,norm,bias)"
_LORA_I = "lora(rank=64, alpha=128, on=q,k,v)"
_LORA_II = "lora(rank=64, alpha=128, on=q,k,v,o)"
_HUB_ID = r"[A-Za-z][\w.-]*/[A-Za-z][\w.-]*"
_NAME = re.compile(r"[A-Za-z][\w.+/@-]*")
_SPAFIT_NAME = re.compile(r"spafit-(\d+)-(\d+)(?:/(\d+)-(\d+))?-(II?)(\+delta)?")


@dataclass(frozen=True)
class Preset:
    """One row of the table: name, plan text (``{depth}`` where ``@depth`` goes), summary and source."""

    name: str
    text: str
    summary: str
    source: str
    depth: str = ""
    """The default depth; empty when the preset inserts nothing."""


_TABLE = (
    Preset("frozen", "", "nothing of the model trains, only the task's new output layer", "linear probe"),
    Preset(
        "full",
        "embeddings full | : full | head(mlm=dense,norm,bias,decoder, pooler, final_norm)",
        "every parameter trains",
        "BFT table 1 (Model Tuning), SPAFIT table 2 (Full Fine-tuning)",
    ),
    Preset("upper-half", "1/2: full", "every parameter of the upper half of the blocks", "Lee et al. 2019 (freezing)"),
    Preset("bitfit", ": bitfit", "the biases of every block", "Ben Zaken et al. 2022; BFT table 1"),
    Preset(
        "bitfit+embeddings",
        "embeddings full | : bitfit | head(pooler)",
        "biases, embeddings and pooler: what SPAFIT's 31.52M are",
        "SPAFIT table 2 (Full BitFit)",
    ),
    Preset("lora", ": lora", "rank 8 on q and v of every block", "Hu et al. 2022; BFT table 1"),
    Preset("mid", "1/3:3/4 lora", "LoRA on the middle of the stack; what is above stays frozen", "LoRA, by depth"),
    Preset("lora-I", f": {_LORA_I}", "rank 64 on q, k, v of every block", "SPAFIT table 2"),
    Preset("lora-II", f": {_LORA_II}", "rank 64 on q, k, v, o of every block", "SPAFIT table 2"),
    Preset("dora", ": dora", "DoRA of rank 8 on q and v of every block", "Liu et al. 2024"),
    Preset("ia3", ": ia3", "vectors that scale keys, values and the FFN's inner layer", "(IA)3, Liu et al. 2022"),
    Preset("delta-bias", ": delta_bias", "bitfit in vectors of its own, beside the frozen biases", "SPAFIT section 7"),
    Preset(
        "adapter",
        ": houlsby",
        "Houlsby's adapter, twice in every block (the method adapter(depth=...) is BFT's, once between two blocks)",
        "Houlsby et al. 2019; BFT table 1",
    ),
    Preset("adapterdrop", "1/2: houlsby", "adapter in the upper half", "Rücklé et al. 2021; BFT table 1"),
    Preset("parallel", ": parallel", "a scaled adapter beside the FFN of every block", "He et al. 2022"),
    Preset("prompt", "prompt(tokens=20)", "20 vectors before the word embeddings", "Lester et al. 2021; BFT table 1"),
    Preset(
        "p-tuning-v2", ": prefix", "20 keys and values in every block", "Liu et al. 2021 (P-tuning v2); BFT table 1"
    ),
    Preset(
        "s-idpg-phm",
        "idpg(tokens=5)",
        "5 vectors at the input, made from the whole text by hypercomplex layers",
        "Wu et al. 2022; BFT table 1",
    ),
    Preset("head", _MLM_HEAD, "the masked-LM head without its tied decoder", "BFT table 3 (BFT w/o LPT)"),
    Preset("lpt", _PROMPT, "a late prompt half way up", "LPT; BFT table 1", "1/2"),
    Preset("lpt-appg", _PROMPT.replace(")", ", generator=appg)"), "lpt from averages of the tokens", "LPT", "1/2"),
    Preset("lpt-mppg", _PROMPT.replace(")", ", generator=mppg)"), "lpt from maxima of the tokens", "LPT", "1/2"),
    Preset("lpt-adapter", _ADAPTER, "one adapter three quarters up", "BFT table 1", "3/4"),
    Preset("bft", f"{_PROMPT} | {_MLM_HEAD}", "lpt and the masked-LM head", "BFT table 1", "1/2"),
    Preset("bft-adapter", f"{_ADAPTER} | {_MLM_HEAD}", "lpt-adapter and the masked-LM head", "BFT table 1", "3/4"),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _TABLE}

SUFFIXES: dict[str, tuple[str, str]] = {
    "norm2": ("-1: full(on=norm_ffn)", "and the last block's last norm (BFT table 7, ADD&NORM2)"),
    "ffd": ("-1: full(on=ffn,norm_ffn)", "and the last block from its feed-forward on (BFT table 7, FFD)"),
    "ln": (
        "-1: full(on=norm_attn,ffn,norm_ffn)",
        "and the last block from its first norm on (BFT table 7, ADD&NORM1)",
    ),
}
"""The stratum that each suffix of an inserting preset adds."""

SPAFIT_PATTERN = "spafit-N1-N2-I|II"


def looks_like_preset(text: str) -> bool:
    """Whether a text is one name and not a written-out plan."""
    return bool(_NAME.fullmatch(text))


def model_for_plan(given: str) -> PlanError:
    """The error about a model in the place of a plan: it is the first argument of other libraries."""
    fix = "name it with --model MODEL; a plan is such as 'lora' or '6: lora'"
    return PlanError(f"{shown(given)} names a model, and a plan is needed", fix)


def preset_text(name: str) -> str:
    """The plan that a preset stands for, as text.

    Raises:
        PlanError: there is no such preset, or it takes no such suffix or depth.
    """
    # Before the table: SPAFIT is a family of plans, with numbers in the name.
    spafit = _SPAFIT_NAME.fullmatch(name)
    if spafit:
        text = _spafit_text(name, spafit)
        return text.replace("bitfit", "delta_bias") if spafit[6] else text
    named, _, depth = name.partition("@")
    base, suffix = _split_suffix(named)
    if name == "auto":
        raise PlanError(
            "the plan auto is chosen from training data, and there are none here",
            "st.train and `stratatune train` take it; `stratatune suggest` proposes a plan",
        )
    if base not in PRESETS:
        if re.fullmatch(_HUB_ID, name) or any(map(is_known, re.split("[-_]", name.lower()))):
            raise model_for_plan(name)
        hint = f"did you mean ': {base}'? " if base in ("frozen", "bitfit") else ""
        raise PlanError(f"unknown preset {shown(name)}", hint + did_you_mean(name, (*PRESETS, SPAFIT_PATTERN)))
    preset = PRESETS[base]
    if (suffix or "@" in name) and not preset.depth:
        inserting = ", ".join(other.name for other in PRESETS.values() if other.depth)
        raise PlanError(
            f"preset {base!r} inserts nothing, so {name!r} has no meaning", f"suffixes and @depth go with {inserting}"
        )
    text = preset.text.format(depth=_checked(name, depth) if "@" in name else preset.depth)
    return f"{SUFFIXES[suffix][0]} | {text}" if suffix else text


def _split_suffix(named: str) -> tuple[str, str]:
    """Split a preset's name from its suffix; ``bitfit+embeddings`` is one name."""
    if named in PRESETS:
        return named, ""
    base, plus, suffix = named.partition("+")
    if plus and base in PRESETS and suffix not in SUFFIXES:
        raise PlanError(f"preset {base!r} has no suffix {'+' + suffix!r}", did_you_mean(suffix, SUFFIXES))
    return base, suffix


def _checked(name: str, depth: str) -> str:
    if not re.fullmatch(r"\d+(/\d+)?", depth):
        raise PlanError(
            f"{depth!r} in {name!r} is not a depth", "write @12, or @1/2 of the model's blocks, at the very end"
        )
    return depth


def _spafit_text(name: str, found: re.Match[str]) -> str:
    """SPAFIT-N1-N2, the same for both stacks of an encoder-decoder, or SPAFIT-N1-N2/M1-M2, for encoder and decoder."""
    lora = _LORA_I if found[5] == "I" else _LORA_II
    strata = _spafit_strata(name, int(found[1]), int(found[2]), lora)
    if found[3] is None:
        return " | ".join(strata)
    below = _spafit_strata(name, int(found[3]), int(found[4]), lora)
    return " | ".join([*(f"enc {one}" for one in strata), *(f"dec {one}" for one in below)])


def _spafit_strata(name: str, last_frozen: int, last_bitfit: int, lora: str) -> list[str]:
    """Blocks 0..N1 frozen, N1+1..N2 BitFit, the rest LoRA and BitFit (N1, N2 0-based and inclusive)."""
    if last_frozen > last_bitfit:
        raise PlanError(
            f"{name!r}: N1={last_frozen} is above N2={last_bitfit}",
            "blocks 0..N1 are frozen, N1+1..N2 BitFit: N1 <= N2",
        )
    strata = [f"0:{last_frozen + 1} frozen"]
    if last_frozen < last_bitfit:
        strata.append(f"{last_frozen + 1}:{last_bitfit + 1} bitfit")
    return [*strata, f"{last_bitfit + 1}: {lora} + bitfit(on=ffn,norm_ffn)"]


def preset_names() -> tuple[str, ...]:
    """Every name as it may be written, the suffixed ones included; SPAFIT's as a pattern."""
    return tuple(preset.name for preset in list_presets())


def list_presets() -> list[Preset]:
    """Every preset with its summary and source, suffixed ones written out; SPAFIT's as one pattern."""
    rows: list[Preset] = []
    for preset in PRESETS.values():
        rows.append(replace(preset, text=preset_text(preset.name)))
        for suffix, (_, summary) in SUFFIXES.items() if preset.depth else ():
            name = f"{preset.name}+{suffix}"
            rows.append(replace(preset, name=name, text=preset_text(name), summary=f"{preset.name} {summary}"))
    text = "0:N1+1 frozen | N1+1:N2+1 bitfit | N2+1: lora(...) + bitfit(on=ffn,norm_ffn)"
    rows.append(Preset(SPAFIT_PATTERN, text, "blocks 0..N1 frozen, up to N2 BitFit, then LoRA", "SPAFIT table 2"))
    text, summary = text.replace("bitfit", "delta_bias"), "the same, the biases themselves left as they are"
    rows.append(Preset(f"{SPAFIT_PATTERN}+delta", text, summary, "SPAFIT section 7"))
    return rows
