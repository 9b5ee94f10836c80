"""A LoRA folder of peft on disk: its settings and tensors, under the names of the plain model. peft is not needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stratatune.errors import ModelError, shown
from stratatune.outside import Unreadable, Written, first_mistake, path_exists, read_json, regular_file
from stratatune.shapes.composite import in_the_part

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_AGAIN = "save it again with peft: model.save_pretrained(FOLDER)"
_PREFIX = "base_model.model."
_LOW_RANK = re.compile(r"(?P<module>.+)\.lora_(?P<part>A|B|magnitude_vector)(\.weight)?")
_COPY = re.compile(r"(?P<module>.+)\.modules_to_save\.\w+\.(?P<rest>.+)")
_WRAPPED = re.compile(r"(\.base_layer)+$")
"""One tensor's LoRA is around that of another of the same module."""
_OTHER = ("lora_embedding_", "lora_")
_UNHELD = (
    "layer_replication", "trainable_token_indices", "alora_invocation_tokens", "use_qalora",
    "lora_bias", "megatron_config", "kasa_config",
)  # fmt: skip
"""Settings of a LoraConfig that change the arithmetic and have no counterpart in a plan."""


_CHANGES_THE_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga", "mica")
"""Beginnings of ways to start that take something away from the base's weights, which peft does again as it loads."""
_OUTPUT_LAYERS = ("classifier.out_proj", "classification_head.out_proj", "classifier", "score", "qa_outputs")


class PeftConfig(Written):
    """The fields of ``adapter_config.json`` that decide the adapter's arithmetic."""

    peft_type: str
    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: str | None = None
    auto_mapping: dict[str, Any] | None = None
    r: int = 8
    lora_alpha: float | int = 8
    alpha_pattern: dict[str, float | int] = Field(default_factory=dict)
    lora_dropout: float | int = 0.0
    bias: Literal["none", "all", "lora_only"] = "none"
    init_lora_weights: bool | str | None = True
    use_rslora: bool = False
    use_dora: bool = False
    target_parameters: list[str] | None = None

    @property
    def model_class(self) -> str:
        """The class of transformers that was tuned, where no task names it; empty where it is unknown."""
        return str((self.auto_mapping or {}).get("base_model_class") or "")

    def scale(self, module: str, rank: int) -> float:
        """The factor of ``B A`` at a module: alpha / R, or alpha / sqrt(R) under rank stabilisation."""
        alphas = {in_the_part(key): value for key, value in self.alpha_pattern.items()}
        alpha = next((value for key, value in alphas.items() if _names(key, module)), self.lora_alpha)
        return alpha / rank**0.5 if self.use_rslora else alpha / rank


def _names(pattern: str, module: str) -> bool:
    """Whether a key of ``alpha_pattern`` matches a module: its name, the end of it, or an expression that fits."""
    if module == pattern or module.endswith(f".{pattern}"):
        return True
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
    except re.error:
        return False


@dataclass
class LowRank:
    """The tensors that LoRA trained at one module: A [R, in], B [out, R], and DoRA's magnitude [out].

    Of a tensor of E experts they are those of all: A [E * R, in], B [out, R * E].
    """

    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """The rank R."""
        return self.a.shape[0]


@dataclass
class PeftFolder:
    """A folder of peft, as read.

    Attributes:
        config: its settings.
        low_rank: LoRA's matrices by the module that they adapt.
        of_experts: those of the tensors of a module (``target_parameters``), which are told apart by their sizes.
        own: values of the model's own parameters, by their names.
    """

    config: PeftConfig
    low_rank: dict[str, LowRank] = field(default_factory=dict)
    of_experts: dict[str, list[LowRank]] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """Rows of the output layer that was saved, by the names that transformers' classes give it; 0 without one."""
        found = (self.own.get(f"{name}.weight") for name in _OUTPUT_LAYERS)
        return next((len(weight) for weight in found if weight is not None), 0)


def is_peft(folder: Path) -> bool:
    """Whether ``folder`` holds an adapter of peft, and none of ours."""
    return path_exists(folder / CONFIG) and not path_exists(folder / "adapter.json")


def read_peft(folder: Path) -> PeftFolder:
    """The settings and tensors of a LoRA folder.

    Raises:
        ModelError: it is damaged, pickled, or of a kind that no plan has, which it names.
    """
    config = _config(folder)
    found = PeftFolder(config)
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _tensors(folder).items():
        # An adapter for a model that is part of a larger one was perhaps trained within that.
        plain = in_the_part(name.removeprefix(_PREFIX))
        if low := _LOW_RANK.fullmatch(plain):
            values = tensor.flatten() if low["part"] == "magnitude_vector" else tensor
            halves.setdefault(low["module"], {})[low["part"]] = values
        # Named, not ignored: the adapter would otherwise be loaded in part.
        elif any(f".{other}" in plain for other in _OTHER):
            raise _no_form(folder, f"{plain}: LoRA on an embedding, or with a bias of its own")
        else:
            found.own[plain] = tensor
    found.own = _plain(found.own)
    for module, parts in halves.items():
        if not _fit(parts):
            raise ModelError(f"{folder / TENSORS} is damaged: {module} has no A and B that belong together", _AGAIN)
        low, plain = LowRank(parts["A"], parts["B"], parts.get("magnitude_vector")), _WRAPPED.sub("", module)
        if any(_names(in_the_part(name).rpartition(".")[0], plain) for name in config.target_parameters or ()):
            found.of_experts.setdefault(plain, []).append(low)
        else:
            found.low_rank[module] = low
    return found


def _plain(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The settings under the names of the plain model.

    ``bias="all"`` saves the biases of a module in ``modules_to_save`` once more under the name of the adapter, and once
    as they were before training; both are left out.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in own.items():
        copied = _COPY.fullmatch(name)
        if ".original_module." in name or (copied and f"{copied['module']}.{copied['rest']}" in own):
            continue
        found[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = tensor
    return found


def _fit(parts: Mapping[str, Tensor]) -> bool:
    a, b, magnitude = parts.get("A"), parts.get("B"), parts.get("magnitude_vector")
    if a is None or b is None or a.dim() != 2 or b.dim() != 2 or not 0 < a.shape[0] == b.shape[1]:
        return False
    return magnitude is None or magnitude.shape == b.shape[:1]


def _config(folder: Path) -> PeftConfig:
    path = folder / CONFIG
    try:
        data = read_json(path)
        if not isinstance(data, dict):
            raise Unreadable("it is not a mapping")
        # Before validation, whose messages would be about fields of another type.
        if (kind := data.get("peft_type")) != "LORA":
            raise _no_form(folder, f"peft_type {shown(kind)}")
        if odd := [name for name in _UNHELD if data.get(name)]:
            raise _no_form(folder, f"{odd[0]}={shown(data[odd[0]], 40)}")
        config = PeftConfig.model_validate(data)
    except ValidationError as error:
        raise ModelError(f"{path} is damaged: {first_mistake(error)}", _AGAIN) from error
    except Unreadable as error:
        raise ModelError(f"{path} is damaged: {error}", _AGAIN) from error
    start = config.init_lora_weights
    if isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
        said = "changes the base's weights too (peft's path_initial_model_for_weight_conversion saves plain LoRA)"
        raise _no_form(folder, f"init_lora_weights={shown(start)} {said}")
    return config


def _no_form(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"the peft adapter in {shown(str(folder))[1:-1]} cannot become a plan: {what}",
        "LoRA, DoRA, rsLoRA, modules_to_save and bias can",
    )


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / TENSORS
    if not path_exists(path) and path_exists(folder / _PICKLED):
        raise ModelError(
            f"{folder} holds pickled weights ({_PICKLED}), which can run code and are not read",
            "load it with peft once and save it: model.save_pretrained(FOLDER) writes safetensors",
        )
    if wrong := regular_file(path):
        raise ModelError(f"{path} cannot be read: {wrong}", _AGAIN)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}", _AGAIN) from error
