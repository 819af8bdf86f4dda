"""API keys: how one is made, what one looks like, and the digest that is all we ever store of it."""

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

_SECRET_BYTES: Final = 32
_KEY: Final = re.compile(rb"hk_(?P<id>k[0-9a-f]{12})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that has just been made; only its owner keeps the secret."""

    key_id: str
    """Part of the secret that may be shown: ``k`` and 12 hexadecimal digits."""
    secret: str = field(repr=False)
    """What the client sends: ``hk_``, the id, ``_`` and 256 random bits."""

    @property
    def digest(self) -> str:
        """What is stored of the secret."""
        return key_digest(self.secret.encode())


def new_key() -> NewKey:
    """Return a fresh key."""
    key_id = f"k{secrets.token_hex(6)}"
    return NewKey(key_id=key_id, secret=f"hk_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}")


def key_digest(secret: bytes) -> str:
    """Return the sha256 of a key in hex: a random key of 256 bits needs no slower hash."""
    return hashlib.sha256(secret).hexdigest()


def looks_like_key(secret: bytes) -> bool:
    """Return whether `secret` has the form of a key, so that other text is never looked up."""
    return _KEY.fullmatch(secret) is not None
