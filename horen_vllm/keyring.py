"""API keys that the registry, or a control plane in its name, has vouched for; remembered for a bounded time."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from horen_vllm.errors import HorenError, NotFound, Unavailable
from horen_vllm.keys import key_digest, looks_like_key
from horen_vllm.registry.models import KeyRecord

MAX_LOOKUPS: Final = 64
"""Unknown keys that are looked up at the same time; a flood of them is turned away, known keys never are."""
_THREADS: Final = 4

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Remembered:
    record: KeyRecord | None
    until: float


class Keyring:
    """Tells whose key it is; at most `ttl_s` seconds after a revocation it stops doing so.

    The time counts from before the question, and also runs while nobody answers: then a key that was valid is refused
    with ``key_check_unavailable`` rather than accepted. Only digests are kept, looked up and logged.

    Parameters
    ----------
    resolve
        Returns the key with a digest; may block; NotFound for one that is not valid.
    ttl_s
        Seconds that an answer is believed.
    capacity
        Valid keys, and again as many invalid ones, that are remembered.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        resolve: Callable[[str], KeyRecord],
        *,
        ttl_s: float,
        capacity: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolve = resolve
        self._ttl_s = ttl_s
        self._capacity = capacity
        self._clock = clock
        # Apart, so that made-up keys cannot push real ones out.
        self._valid: OrderedDict[str, _Remembered] = OrderedDict()
        self._invalid: OrderedDict[str, _Remembered] = OrderedDict()
        self._asking: dict[str, asyncio.Future[_Remembered]] = {}
        # Threads of its own: a flood of keys must not hold up other work.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="horen-key")

    async def find(self, secret: bytes) -> KeyRecord | None:
        """Return the key with this secret; None for one that is malformed, unknown, expired or revoked, all alike.

        Raises
        ------
        Unavailable
            ``key_check_unavailable``, when nobody can say.
        """
        # Looked up by digest: how long a comparison takes tells nothing about 256 random bits behind a sha256.
        return await self._record(key_digest(secret)) if looks_like_key(secret) else None

    def close(self) -> None:
        """Release the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _record(self, digest: str) -> KeyRecord | None:
        for known in (self._valid, self._invalid):
            found = known.get(digest)
            if found is not None and self._clock() < found.until:
                known.move_to_end(digest)
                return found.record
        # Shielded: a client that leaves must not take the answer away from the others that wait for it.
        return (await asyncio.shield(self._asked(digest))).record

    def _asked(self, digest: str) -> "asyncio.Future[_Remembered]":
        if digest not in self._asking:
            if len(self._asking) >= MAX_LOOKUPS and digest not in self._valid:
                raise _unavailable()
            task = asyncio.ensure_future(self._ask(digest))
            self._asking[digest] = task
            task.add_done_callback(lambda done: self._forget(digest, done))
        return self._asking[digest]

    def _forget(self, digest: str, done: "asyncio.Future[_Remembered]") -> None:
        del self._asking[digest]
        if not done.cancelled():
            # Somebody has to look at it, also when every client has left.
            done.exception()

    async def _ask(self, digest: str) -> _Remembered:
        asked_at, loop = self._clock(), asyncio.get_running_loop()
        record: KeyRecord | None
        try:
            record = await loop.run_in_executor(self._threads, self._resolve, digest)
        except NotFound:
            record = None
        except HorenError as error:
            log.warning("key not checked", digest=digest[:12], code=error.code, reason=error.message)
            raise _unavailable() from error
        answer = _Remembered(record, asked_at + self._life_s(record))
        self._remember(digest, answer)
        return answer

    def _life_s(self, record: KeyRecord | None) -> float:
        if record is None or record.expires_at is None:
            return self._ttl_s
        return min(self._ttl_s, (record.expires_at - datetime.now(UTC)).total_seconds())

    def _remember(self, digest: str, answer: _Remembered) -> None:
        known, other = (self._valid, self._invalid) if answer.record else (self._invalid, self._valid)
        other.pop(digest, None)
        known[digest] = answer
        known.move_to_end(digest)
        if len(known) > self._capacity:
            known.popitem(last=False)


def _unavailable() -> Unavailable:
    return Unavailable("this server cannot check API keys now; try again.", code="key_check_unavailable")
