"""How the client follows something for as long as it wants, through restarts of the server."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from horen_vllm.control.transport import ATTEMPTS, Transport
from horen_vllm.errors import Unavailable

B = TypeVar("B")

_LONGEST_PAUSE_S: Final = 2.0
_END: Final = object()


class Following(Generic[B]):
    """One watch: when the server goes away, it is asked again from where it was, until the time is up.

    Parameters
    ----------
    transport
        How to call.
    method, request
        What to call, and with what; the request is moved on.
    read
        Reads an answer.
    resume
        Puts into the request, by what was received last, where the watch is to go on.
    timeout_s
        Seconds that it lasts; None: until its reader has enough.
    """

    def __init__(
        self,
        transport: Transport,
        method: Any,
        request: Any,
        read: Callable[[Any], B],
        *,
        resume: Callable[[Any, B], None],
        timeout_s: float | None,
    ) -> None:
        self._transport = transport
        self._method = method
        self._request = request
        self._read = read
        self._resume = resume
        self._end = None if timeout_s is None else time.monotonic() + timeout_s
        self._stream: Iterator[B] | None = None
        self._taken = False

    def answers(self) -> Iterator[B]:
        """Yield the answers; end quietly when the time is up, the client is closed or the server ends the watch.

        Raises
        ------
        HorenError
            What the server raised, but for Unavailable; that, when there was no server within about a second.
        """
        # Anew for each answer: a server that answers again has earned short pauses.
        retrying = Retrying(retry=retry_if_exception_type(Unavailable), wait=self._pause, stop=self._stop, reraise=True)
        try:
            while (answer := retrying(self._next)) is not _END:
                self._resume(self._request, answer)
                yield answer
        except Unavailable:
            if not self._over:
                raise
        finally:
            if self._stream is not None:
                self._stream.close()  # type: ignore[attr-defined]

    @property
    def _over(self) -> bool:
        return self._transport.closed or self._left() == 0.0

    def _next(self) -> Any:
        if self._over:
            return _END
        if self._stream is None:
            self._stream = self._transport.stream(
                self._method, self._request, self._read, timeout_s=self._left(), on_open=self._on_open
            )
        try:
            return next(self._stream, _END)
        except BaseException as exc:
            self._stream = None
            # What gRPC says of a channel that was closed by another thread just now.
            if isinstance(exc, ValueError) and self._transport.closed:
                return _END
            raise

    def _on_open(self) -> None:
        self._taken = True

    def _left(self) -> float | None:
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def _pause(self, state: RetryCallState) -> float:
        seconds, rest = wait_exponential(multiplier=0.1, max=_LONGEST_PAUSE_S)(state), self._left()
        return seconds if rest is None else min(seconds, rest)

    def _stop(self, state: RetryCallState) -> bool:
        return self._over or (not self._taken and state.attempt_number >= ATTEMPTS)
