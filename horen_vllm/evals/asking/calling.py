"""Calls of an HTTP server that may be down, slow or overloaded for a while."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    wait_random_exponential,
)
from tenacity.stop import stop_when_event_set
from tenacity.wait import wait_base

from horen_vllm.errors import (
    DataLoss,
    FailedPrecondition,
    HorenError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from horen_vllm.loopback import is_loopback

T = TypeVar("T")

_Refuse = Callable[[str], HorenError]
_REFUSALS: Final[Mapping[int, _Refuse]] = {
    **dict.fromkeys((400, 413, 422), partial(InvalidArgument, code="question_refused")),
    401: partial(Unauthenticated, code="invalid_api_key"),
    403: partial(PermissionDenied, code="key_scope"),
    404: partial(NotFound, code="unknown_model"),
}
"""Status to the error that asking again would not change, with its code where the server gives none."""
_AGAIN: Final = frozenset({408, 425, 429})
"""Statuses below 500 that a later call may not meet."""
_CONNECT_S: Final = 10.0
_KEPT: Final = 1024
"""Idle connections that are kept; no run has so many questions in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server that does not answer is asked again.

    The defaults outlast the restart of a server: about two minutes where the connection is refused at once.
    """

    timeout_s: float = 120.0
    """Longest wait for one answer, in seconds."""
    attempts: int = 12
    """Calls in all."""
    first_wait_s: float = 0.5
    """Up to this many seconds pass before the second call, twice as many before the third ..."""
    longest_wait_s: float = 30.0
    """... but never more than these; also the most that a server's ``Retry-After`` is heeded."""


class Caller:
    """A client of one server; any thread may call.

    It is made of urllib3: httpx takes several times the processor time for a request, which on one machine is the
    server's.

    Parameters
    ----------
    url
        ``http://HOST:PORT``; a trailing ``/v1`` is taken off.
    api_key
        Sent as a bearer token; None: none is sent.

    Raises
    ------
    InvalidArgument
        ``invalid_url``.
    FailedPrecondition
        ``insecure_channel``, for an API key that would travel to another machine in clear text.
    """

    def __init__(self, url: str, *, api_key: str | None = None, patience: Patience | None = None) -> None:
        self.url = _checked(url, api_key)
        self._patience = patience or Patience()
        self._closed = Event()
        self._headers = {"content-type": "application/json", **_credential(api_key)}
        self._http = _pool(self.url, self._patience.timeout_s)

    def call(
        self,
        path: str,
        body: Mapping[str, Any] | None,
        read: Callable[[dict[str, Any], float], T],
        *,
        attempts: int | None = None,
    ) -> T:
        """Call ``POST path`` with `body`, or ``GET path`` for None, until there is an answer, and return it as read.

        Parameters
        ----------
        read
            Reads the answer, a JSON object, and the seconds that it took, earlier attempts left out. It may raise
            `NotNowError`, too.
        attempts
            Calls in all, where it is not to be those of the patience.

        Raises
        ------
        HorenError
            A refusal, by the table above, with the server's sentence and code; InvalidArgument is always
            ``question_refused``.
        Unavailable
            ``server_unavailable``, after so many attempts.
        DataLoss
            ``unreadable_answer``.
        """
        content = None if body is None else _encoded(body)
        retrying = Retrying(
            stop=stop_after_attempt(attempts or self._patience.attempts) | stop_when_event_set(self._closed),
            wait=_Wait(self._patience),
            retry=retry_if_exception_type(NotNowError),
            sleep=sleep_using_event(self._closed),
            reraise=True,
        )
        try:
            answer: T = retrying(self._once, path, content, read)
        except NotNowError as exc:
            made = retrying.statistics.get("attempt_number", 1)
            message = f"{self.url} did not answer {path} in {made} attempts; at last: {exc}."
            raise Unavailable(message, code="server_unavailable") from exc
        return answer

    def close(self) -> None:
        """Close the connections; whoever still waits for a next attempt gives up."""
        self._closed.set()
        self._http.clear()

    def _once(self, path: str, content: bytes | None, read: Callable[[dict[str, Any], float], T]) -> T:
        if self._closed.is_set():
            raise NotNowError("the client was closed")
        began = time.perf_counter()
        try:
            response = self._http.urlopen(
                "GET" if content is None else "POST",
                f"{self.url}{path}",
                body=content,
                headers=self._headers,
                retries=False,
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as exc:
            raise NotNowError(f"{type(exc).__name__}: {exc}") from exc
        seconds = time.perf_counter() - began
        if response.status >= 500 or response.status in _AGAIN:
            raise NotNowError(f"status {response.status}", retry_after_s=_retry_after(response))
        if response.status != 200:
            raise _refusal(response)
        answer = _json(response)
        if not isinstance(answer, dict):
            raise DataLoss(f"{self.url}{path} answered something that is no JSON object.", code="unreadable_answer")
        return read(answer, seconds)


class NotNowError(Exception):
    """A call that failed in a way that a later one may not."""

    def __init__(self, reason: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _Wait(wait_base):
    """Exponential with jitter, but not less than the server asks for."""

    def __init__(self, patience: Patience) -> None:
        self._longest_s = patience.longest_wait_s
        self._backoff = wait_random_exponential(multiplier=patience.first_wait_s, max=patience.longest_wait_s)

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome is not None else None
        asked_for = error.retry_after_s if isinstance(error, NotNowError) else 0.0
        return max(self._backoff(retry_state), min(asked_for, self._longest_s))


def _checked(url: str, api_key: str | None) -> str:
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"} or parts.query or parts.fragment or parts.username:
        raise InvalidArgument(f"{url!r} is no address of a server: expected http://HOST:PORT.", code="invalid_url")
    if api_key is not None and parts.scheme == "http" and not is_loopback(host):
        message = f"an API key does not travel to {host} in clear text: use https."
        raise FailedPrecondition(message, code="insecure_channel")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _credential(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"authorization": f"Bearer {api_key}"}


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as exc:
        message = "the question has half of a surrogate pair, which no server can read."
        raise InvalidArgument(message, code="question_refused") from exc


def _pool(url: str, timeout_s: float) -> urllib3.PoolManager:
    parts = urlsplit(url)
    host, options = (
        parts.hostname or "",
        dict[str, Any](timeout=urllib3.Timeout(connect=min(_CONNECT_S, timeout_s), read=timeout_s), maxsize=_KEPT),
    )
    proxy = getproxies().get(parts.scheme)
    # Proxies are for other machines.
    if proxy is None or is_loopback(host) or proxy_bypass(host):
        return urllib3.PoolManager(**options)
    return urllib3.ProxyManager(proxy, **options)


def _json(response: urllib3.BaseHTTPResponse) -> Any:
    """Return a response's JSON; None for anything else."""
    try:
        return json.loads(response.data)
    except ValueError:
        return None


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    """Return the seconds of ``Retry-After``; 0 when it is missing or a date."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _refusal(response: urllib3.BaseHTTPResponse) -> HorenError:
    refuse = _REFUSALS.get(response.status, partial(FailedPrecondition, code="unexpected_answer"))
    try:
        body = _json(response)
        error = body.get("error", body)
        message, given = str(error["message"]), error.get("code")
    except (AttributeError, KeyError, TypeError):
        text = response.data[:200].decode(errors="replace")
        message, given = text or f"status {response.status} without a word", None
    refusal = refuse(message)
    if isinstance(given, str) and not isinstance(refusal, InvalidArgument):
        return type(refusal)(message, code=given)
    return refusal
