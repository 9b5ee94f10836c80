"""The fields of requests of OpenAI's API.

Fields that would change an answer and are not supported are refused, unless they have the value that changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from stratatune.errors import shown
from stratatune.serving.asking import Message, Refusal
from stratatune.training.generation import COLDEST

_IGNORED = (
    "function_call",
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "tool_choice",
    "user",
    "verbosity",
)
"""Fields that do not change what a model says, or only beside others that are refused."""
_NEUTRAL = (None, 0, "", [], {})
"""Values of the other fields that change nothing."""
_USUAL = {
    "best_of": 1,
    "modalities": ["text"],
    "reasoning_effort": "none",
    "response_format": {"type": "text"},
}
"""Further ones, of fields that are off by another value."""
_MOST_STOPS = 4

Stops = str | Annotated[list[str], Field(max_length=_MOST_STOPS)] | None


def _no_tokens(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(one, int | list) for one in value):
        raise PydanticCustomError("token_ids", "token ids are not read, send texts")
    return value


Texts = Annotated[str | Annotated[list[str], Field(min_length=1)], BeforeValidator(_no_tokens)]


class _StreamOptions(BaseModel):
    include_usage: bool | None = False


class Asked(BaseModel):
    """The fields that requests for text have in common."""

    model_config = ConfigDict(extra="allow")

    model: str
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: Stops = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: int | None = None
    stream: bool | None = False
    stream_options: _StreamOptions | None = None

    @property
    def most(self) -> int | None:
        """The most tokens of an answer."""
        return self.max_tokens

    @property
    def stops(self) -> list[str]:
        """The texts before which an answer ends."""
        return [one for one in ([self.stop] if isinstance(self.stop, str) else self.stop or []) if one]

    def options(self, limit: int) -> dict[str, Any]:
        """The options of generated text; an answer may have ``limit`` tokens where the request does not say.

        Raises:
            Refusal: the request has a field that is not supported, and whose value would change something.
        """
        refuse_others(self)
        found = {"max_new_tokens": limit if self.most is None else self.most, "seed": self.seed}
        # Values that change nothing are left out, so that such requests share a batch with others.
        found["repetition_penalty"] = None if self.repetition_penalty == 1 else self.repetition_penalty
        # Without options of a draw the likeliest text is written, as `stratatune predict` does; 0 asks for that.
        if self.temperature is not None and 0 <= self.temperature < COLDEST:
            return found
        # Clients also leave these out by the values that keep every token; vLLM's top_k for that is -1.
        top_k = 0 if self.top_k == -1 else self.top_k
        if self.temperature is None and self.top_p in (None, 1) and not top_k and not self.min_p:
            return found
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": top_k, "min_p": self.min_p}
        return {**found, **drawn}


class ChatAsked(Asked):
    """A conversation to go on with."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = None

    @property
    def most(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionAsked(Asked):
    """A prompt to go on with."""

    prompt: Texts


class EmbeddingsAsked(BaseModel):
    """Texts whose vectors are wanted."""

    model_config = ConfigDict(extra="allow")

    model: str
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None


def refuse_others(asked: BaseModel) -> None:
    """Refuse fields that are not supported, and whose values would change something."""
    for name, value in (asked.model_extra or {}).items():
        if name not in _IGNORED and value not in (*_NEUTRAL, _USUAL.get(name)):
            raise Refusal(422, f"{shown(name)[1:-1]}: not supported", "leave it out; docs/serve.md lists what is read")
