"""Names of things: tenants, codebooks, edits and revisions, and the one syntax that spells them."""

import re
import secrets
import time
from dataclasses import dataclass
from typing import NewType

from horen_vllm.errors import InvalidArgument

TenantId = NewType("TenantId", str)
EditId = NewType("EditId", str)

DEFAULT_TENANT = TenantId("default")
"""Who owns the codebooks of a server that runs without authentication."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,61}[a-z0-9]|[a-z]")
_RESOURCE = re.compile(r"tenants/(?P<tenant>[^/]+)/codebooks/(?P<codebook>[^/]+)")


def parse_name(text: str, what: str) -> str:
    """Return `text` if it is a valid name: 1 to 63 of ``a-z 0-9 -``, starting with a letter, no final dash.

    Raises
    ------
    InvalidArgument
        ``invalid_name``, when it is not.
    """
    if not is_name(text):
        message = f"{what} {text!r} is not a name: use 1 to 63 of a-z, 0-9 and '-', starting with a letter."
        raise InvalidArgument(message, code="invalid_name")
    return text


def is_name(text: str) -> bool:
    """Return whether `parse_name` takes `text`."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, order=True)
class CodebookName:
    """A tenant's codebook; ``str()`` gives its resource name ``tenants/T/codebooks/C``."""

    tenant: TenantId
    codebook: str

    def __str__(self) -> str:
        """Spell the resource name."""
        return f"tenants/{self.tenant}/codebooks/{self.codebook}"

    @classmethod
    def parse(cls, text: str) -> "CodebookName":
        """Read a resource name.

        Raises
        ------
        InvalidArgument
            ``invalid_name``, when `text` is not ``tenants/T/codebooks/C`` with valid names.
        """
        found = _RESOURCE.fullmatch(text)
        if found is None:
            message = f"{text!r} is not a codebook: expected tenants/TENANT/codebooks/CODEBOOK."
            raise InvalidArgument(message, code="invalid_name")
        tenant = TenantId(parse_name(found["tenant"], "tenant"))
        return cls(tenant, parse_name(found["codebook"], "codebook"))


def new_edit_id() -> EditId:
    """Return a fresh edit id that sorts by the time it was made (milliseconds, then 48 random bits)."""
    return EditId(f"e{int(time.time() * 1000):012x}{secrets.randbits(48):012x}")
