"""API keys from the environment, which decide who may ask. No torch."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass

from stratatune.errors import ConfigError

KEYS, ADMIN_KEYS = "STRATATUNE_SERVE_KEYS", "STRATATUNE_SERVE_ADMIN_KEYS"
_SHORTEST = 16


@dataclass(frozen=True)
class Keys:
    """API keys; without user keys everybody may ask, without administrator keys nobody may change tasks.

    Attributes:
        users: keys that may request predictions.
        admins: may also add and remove tasks.
    """

    users: tuple[str, ...] = ()
    admins: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Keys:
        """The keys in ``STRATATUNE_SERVE_KEYS`` and ``STRATATUNE_SERVE_ADMIN_KEYS``, separated by commas.

        Raises:
            ConfigError: one is so short that it can be guessed, or has a character that no header can.
        """
        found = {name: _split(environment.get(name, "")) for name in (KEYS, ADMIN_KEYS)}
        odd = [name for name, keys in found.items() if any(len(key) < _SHORTEST or not key.isascii() for key in keys)]
        if odd:
            raise ConfigError(
                [f"{name}: a key is too short or not ASCII" for name in odd],
                f"{_SHORTEST} characters at least: python -c 'import secrets; print(secrets.token_urlsafe())'",
            )
        return cls(found[KEYS], found[ADMIN_KEYS])

    def may_ask(self, authorization: str) -> bool:
        """Whether a request with this ``Authorization`` header may request predictions."""
        return not self.users or _is_one_of(authorization, (*self.users, *self.admins))

    def may_change(self, authorization: str) -> bool:
        """Whether it may add and remove tasks."""
        return _is_one_of(authorization, self.admins)


def _split(text: str) -> tuple[str, ...]:
    return tuple(key.strip() for key in text.split(",") if key.strip())


def _is_one_of(authorization: str, keys: tuple[str, ...]) -> bool:
    kind, _, key = authorization.partition(" ")
    given = key.strip().encode() if kind.lower() == "bearer" else b""
    # Each is compared in a time that says nothing, and all of them are.
    return bool(sum(hmac.compare_digest(given, one.encode()) for one in keys))
