"""Limits on what a server takes from its clients, and on how long it waits for them. No torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from stratatune.errors import ConfigError

_MEANS = {
    "body_bytes": "Maximum number of bytes in a request's body.",
    "texts": "Maximum number of texts in a request.",
    "characters": "Maximum number of characters in a text.",
    "new_tokens": "Maximum number of tokens in a generated answer.",
    "queue": "Maximum number of waiting answers, one for each text and task.",
    "batch": "Maximum number of texts that are computed together.",
    "remember_bytes": "Bytes of hidden states to keep for repeated texts.",
    "timeout": "Seconds within which a request must be answered.",
    "patience": "Seconds within which a client must send a request or read an answer.",
    "connections": "Maximum number of connections at a time.",
    "wait": "Seconds that a batch waits for more requests.",
    "stop": "Seconds for open requests to finish when the server stops.",
}
_MAY_BE_ZERO = ("remember_bytes", "wait", "stop")


@dataclass(frozen=True)
class Limits:
    """The limits of a server; :func:`describe` explains each.

    Raises:
        ConfigError: one is not above zero.
    """

    body_bytes: int = 1_000_000
    texts: int = 256
    characters: int = 20_000
    new_tokens: int = 1024
    queue: int = 4096
    batch: int = 64
    remember_bytes: int = 64_000_000
    timeout: float = 30.0
    patience: float = 10.0
    connections: int = 512
    wait: float = 0.002
    stop: float = 30.0

    def __post_init__(self) -> None:
        odd = [one.name for one in fields(self) if not self._legal(one.name)]
        if odd:
            raise ConfigError(
                [f"{name}: {getattr(self, name)} must be more than 0" for name in odd],
                "stratatune serve --help lists the limits and their defaults",
            )

    def _legal(self, name: str) -> bool:
        value = getattr(self, name)
        return 0 <= value < 10**12 and (value > 0 or name in _MAY_BE_ZERO)


def describe(name: str) -> str:
    """The meaning of a limit, in a sentence."""
    return _MEANS[name]
