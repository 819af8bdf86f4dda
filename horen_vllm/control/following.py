"""How the client follows something for as long as it wants, through restarts of the server."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception_type, wait_exponential

from horen_vllm.control.transport import Transport
from horen_vllm.errors import Unavailable

B = TypeVar("B")

_LONGEST_PAUSE_S: Final = 2.0
_END: Final = object()


def follow(
    transport: Transport,
    method: Any,
    request: Any,
    read: Callable[[Any], B],
    *,
    resume: Callable[[Any, B], None],
    timeout_s: float | None,
) -> Iterator[B]:
    """Yield the answers of a watch; when the server goes away, ask again from where it was, until the time is up.

    Ends quietly after `timeout_s` seconds (None: never), or when the server ends the watch.

    Parameters
    ----------
    resume
        Puts into the request, by what was received last, where the watch is to go on.

    Raises
    ------
    HorenError
        What the server raised, but for Unavailable.
    """
    end = None if timeout_s is None else time.monotonic() + timeout_s
    stream: Iterator[B] | None = None

    def left() -> float | None:
        return None if end is None else max(0.0, end - time.monotonic())

    def next_answer() -> Any:
        nonlocal stream
        if stream is None:
            stream = transport.stream(method, request, read, timeout_s=left())
        try:
            return next(stream, _END)
        except BaseException:
            stream = None
            raise

    def pause(state: RetryCallState) -> float:
        seconds, rest = wait_exponential(multiplier=0.1, max=_LONGEST_PAUSE_S)(state), left()
        return seconds if rest is None else min(seconds, rest)

    # Anew for each answer: a server that answers again has earned short pauses.
    retrying = Retrying(
        retry=retry_if_exception_type(Unavailable),
        wait=pause,
        stop=lambda _state: end is not None and time.monotonic() >= end,
    )
    try:
        while (answer := retrying(next_answer)) is not _END:
            resume(request, answer)
            yield answer
    except RetryError:
        return
    finally:
        if stream is not None:
            stream.close()  # type: ignore[attr-defined]
