"""The base of named things with options: how they are checked and printed, and how a wrong option is reported."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from stratatune.errors import PlanError, did_you_mean, shown
from stratatune.plan.layers import refusal

_PRINTED_LAST = ("on", "lr")
_LONGEST = 120  # of a value in an error


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise refusal("not a number", "write a number, such as 8; yes and no are read as true and false")
    return value


NUMBER = BeforeValidator(_number)
"""For the type of a number: refuses booleans, which pydantic reads as 0 and 1."""
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER]

_PEFT = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "on",
    "num_virtual_tokens": "tokens",
    "bottleneck_size": "bottleneck",
    "layers_to_transform": "the layers before the method, as in 5:10 lora",
    **dict.fromkeys(("query", "q_proj", "q_lin", "query_proj"), "q"),
    **dict.fromkeys(("key", "k_proj", "k_lin", "key_proj"), "k"),
    **dict.fromkeys(("value", "v_proj", "v_lin", "value_proj"), "v"),
    **dict.fromkeys(("o_proj", "out_proj", "out_lin"), "o"),
    **dict.fromkeys(("query_key_value", "qkv_proj", "c_attn", "Wqkv"), "q,k,v"),
    **dict.fromkeys(("up_proj", "c_fc", "fc1", "intermediate"), "up"),
    **dict.fromkeys(("down_proj", "fc2"), "down"),
    "gate_proj": "gate",
    **dict.fromkeys(("all-linear", "all_linear"), "attn,ffn"),
}
"""Words of peft and of the models' own modules, and their names here, under every architecture."""


def peft_word(word: str, otherwise: str) -> str:
    """The hint for a word that peft or a model's code has for one of ours; ``otherwise`` for any other word."""
    return f"what peft calls {word} is {_PEFT[word]} here" if word in _PEFT else otherwise


class OptionError(PlanError):
    """A PlanError that knows which option is wrong, so that the parser can point at it."""

    def __init__(self, option: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.option = option


class Options(BaseModel, frozen=True, extra="forbid"):
    """A named thing with options; prints as ``kind(option=value, ...)`` with the defaults left out."""

    printed_always: ClassVar[tuple[str, ...]] = ()

    kind: str
    lr: Rate | None = None
    """Learning rate of the parameters that this trains; None: the run's."""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        """Turn pydantic's report into one line of ours, with the legal values."""
        try:
            return handler(data)
        except ValidationError as error:
            # Without the pydantic report as its cause, which would only repeat it at length.
            raise _option_error(cls, error) from None

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """The options that may be written in the brackets, in the order in which they are printed."""
        names = [name for name in cls.model_fields if name != "kind"]
        return tuple(sorted(names, key=lambda name: _PRINTED_LAST.index(name) if name in _PRINTED_LAST else -1))

    def __str__(self) -> str:
        """The text form that ``Plan.parse`` reads."""
        fields = type(self).model_fields
        printed = [n for n in self.option_names() if n in self.printed_always or getattr(self, n) != fields[n].default]
        options = ", ".join(_option_text(name, getattr(self, name)) for name in printed)
        return f"{self.kind}({options})" if options else self.kind


def _option_text(name: str, value: object) -> str:
    if value is True:
        return name
    if isinstance(value, tuple):
        return f"{name}={','.join(value)}"
    # Written as people do (alpha=16, not 16.0); above 1e15 a float's digits are no longer the number's own.
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return f"{name}={int(value) if whole else value}"  # pyright: ignore[reportArgumentType]


def _option_error(cls: type[Options], error: ValidationError) -> OptionError:
    """The first fault of a pydantic report, as one line."""
    fault = error.errors(include_url=False)[0]
    kind = cls.model_fields["kind"].default
    option = str(fault["loc"][0]) if fault["loc"] else ""
    context = fault.get("ctx", {})
    if fault["type"] == "missing":
        return OptionError("", f"{kind} needs {option}=", f"for example {kind}({option}=12)")
    if fault["type"] == "extra_forbidden":
        near = peft_word(option, did_you_mean(option, cls.option_names()))
        return OptionError(option, f"{kind} has no option {shown(option)}", near)
    value = f"{kind}: {option}={_plain(fault['input'])}"
    if fault["type"] == "plan":  # raised by ``refusal``, which says it all
        return OptionError(option, f"{value}: {fault['msg']}", context["hint"])
    legal = "a whole number" if fault["type"].startswith("int") else fault["msg"].removeprefix("Input should be ")
    return OptionError(option, f"{value} is not legal", f"legal: {legal}")


def _plain(value: object) -> str:
    text = str(value) if isinstance(value, str) else shown(value)
    if isinstance(value, list | tuple) and all(isinstance(one, str | int | float) for one in value):
        text = ",".join(map(str, value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
