"""Who is asking: every call gets its identity from its credential, or is turned away."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from horen_vllm.control.access import LOCAL, Identity
from horen_vllm.control.credential import AUTHORIZATION
from horen_vllm.errors import HorenError, Unauthenticated
from horen_vllm.keyring import Keyring
from horen_vllm.registry.models import KeyRecord

_BEARER: Final = "bearer"
RECHECK_S: Final = 1.0
"""Seconds between two looks at the key of a running stream; most of them end in the keyring's memory."""

Metadata = Iterable[tuple[str, str | bytes]]


class Gate(Protocol):
    """Tells who is asking."""

    async def identify(self, metadata: Metadata) -> Identity:
        """Return who sent this metadata; Unauthenticated for nobody."""
        ...

    def while_valid(self, metadata: Metadata) -> AbstractAsyncContextManager[None]:
        """Give a block that ends with Unauthenticated soon after the credential does."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


class OpenGate:
    """Takes everybody for `LOCAL`: for servers that only their own machine can reach."""

    async def identify(self, metadata: Metadata) -> Identity:  # noqa: ARG002 - whatever was sent
        """Return `LOCAL`."""
        return LOCAL

    @asynccontextmanager
    async def while_valid(self, metadata: Metadata) -> AsyncIterator[None]:  # noqa: ARG002 - whatever was sent
        """Give a block that nothing ends."""
        yield

    def close(self) -> None:
        """Do nothing."""


class KeyGate:
    """Asks for API keys, as ``authorization: Bearer SECRET``.

    Parameters
    ----------
    keyring
        Knows the keys; what it remembers decides how long a revoked one works.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def identify(self, metadata: Metadata) -> Identity:
        """Return whose key this is.

        Raises
        ------
        Unauthenticated
            ``missing_credential``; ``invalid_credential``, for any other than one valid key, all alike.
        Unavailable
            ``key_check_unavailable``, when the registry cannot be asked.
        """
        key = await self._key(metadata)
        return Identity(actor=f"keys/{key.key_id}", scope=key.scope, tenant=key.tenant)

    @asynccontextmanager
    async def while_valid(self, metadata: Metadata) -> AsyncIterator[None]:
        """Give a block that is left within a second of the time at which `identify` refuses the key.

        Raises
        ------
        Unauthenticated, Unavailable
            As `identify`.
        """
        refusals: list[HorenError] = []
        try:
            async with asyncio.timeout(None) as limit:
                looking = asyncio.create_task(self._look(metadata, limit, refusals))
                try:
                    yield
                finally:
                    looking.cancel()
        except TimeoutError:
            if not limit.expired():
                raise
            raise refusals[0] from None

    def close(self) -> None:
        """Release the keyring's threads."""
        self._keyring.close()

    async def _look(self, metadata: Metadata, limit: asyncio.Timeout, refusals: list[HorenError]) -> None:
        try:
            while True:
                await asyncio.sleep(RECHECK_S)
                await self._key(metadata)
        except HorenError as error:
            refusals.append(error)
            limit.reschedule(asyncio.get_running_loop().time())

    async def _key(self, metadata: Metadata) -> KeyRecord:
        given = [value for name, value in metadata if name == AUTHORIZATION]
        if not given:
            message = "this control plane needs an API key: send it as 'authorization: Bearer KEY'."
            raise Unauthenticated(message, code="missing_credential")
        # Of two credentials nobody knows which one is meant.
        text = given[0] if len(given) == 1 and isinstance(given[0], str) else ""
        scheme, _, secret = text.partition(" ")
        key = await self._keyring.find(secret.strip().encode()) if scheme.lower() == _BEARER else None
        if key is None:
            raise Unauthenticated("the API key is not valid.", code="invalid_credential")
        return key
