"""Page tokens: where the next page starts, opaque to clients."""

import base64
import binascii
from typing import Final

from horen_vllm.errors import InvalidArgument

_PREFIX: Final = "after:"
_MAX_TOKEN: Final = 256
_MOST: Final = 2**31 - 1
"""Greatest sequence, revision or version: databases keep them in 32 bits."""


def encode_token(position: str) -> str:
    """Return the token of the page after `position`."""
    return base64.urlsafe_b64encode(f"{_PREFIX}{position}".encode()).decode()


def decode_token(token: str) -> str:
    """Return the position that `encode_token` was given, or ``""`` for an empty token.

    Raises
    ------
    InvalidArgument
        ``invalid_page_token``, for a token of other origin.
    """
    if not token:
        return ""
    try:
        text = base64.b64decode(token[:_MAX_TOKEN], altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    # PostgreSQL has no NUL in text.
    if not text.startswith(_PREFIX) or "\x00" in text:
        raise InvalidArgument("page_token is not one that a list call returned.", code="invalid_page_token")
    return text.removeprefix(_PREFIX)


def encode_pair(first: int, second: int) -> str:
    """Return the token of a position that two numbers make."""
    return encode_token(f"{first}.{second}")


def decode_number(token: str, most: int = _MOST) -> int:
    """Return the position of `token` as a number up to `most`, 0 for an empty one; raises as `decode_token`."""
    position = decode_token(token)
    return _number(position, most) if position else 0


def decode_pair(token: str) -> tuple[int, int]:
    """Return the two numbers that `encode_pair` was given, two zeros for an empty token; raises as `decode_token`."""
    position = decode_token(token)
    if not position:
        return 0, 0
    first, _, second = position.partition(".")
    return _number(first), _number(second)


def _number(text: str, most: int = _MOST) -> int:
    if not text.isdecimal() or len(text) > 18 or int(text) > most:
        raise InvalidArgument("page_token belongs to another list call.", code="invalid_page_token")
    return int(text)
