"""How the client calls: deadlines, retries of what may be repeated, and errors as the server raised them."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import grpc
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from horen_vllm.control.credential import CredentialInterceptor, KeySource, check_channel, host_of
from horen_vllm.control.settings import MAX_MESSAGE_BYTES
from horen_vllm.control.status import error_from_rpc
from horen_vllm.control.tls import ClientTls
from horen_vllm.errors import HorenError
from horen_vllm.loopback import is_loopback

B = TypeVar("B")

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # gRPC's own second between attempts would make short retries pointless.
    ("grpc.initial_reconnect_backoff_ms", 50),
    # Its name misleads: it is the least time that one attempt gets, TLS included.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
ATTEMPTS: Final = 4


class Transport:
    """A channel to one control plane.

    Parameters
    ----------
    target
        ``HOST:PORT``.
    timeout_s
        Deadline of a unary call in seconds, for each attempt.
    key
        Where the API key comes from; None: there is none.
    tls
        How to speak TLS; None: clear text.

    Raises
    ------
    FailedPrecondition
        ``insecure_channel`` or ``invalid_tls``.
    """

    def __init__(
        self, target: str, timeout_s: float, *, key: KeySource | None = None, tls: ClientTls | None = None
    ) -> None:
        self.target = target
        self.closed = False
        self._timeout_s = timeout_s
        if key is not None:
            check_channel(target, encrypted=tls is not None)
        channel = _channel(target, tls)
        self._open = channel
        self.channel = channel if key is None else grpc.intercept_channel(channel, CredentialInterceptor(key))

    def call(self, method: Any, request: Any, read: Callable[[Any], B], *, extra_s: float = 0.0) -> B:
        """Call `method` once and return its answer as `read` reads it.

        Parameters
        ----------
        extra_s
            Seconds that the server may wait on purpose, on top of the timeout.

        Raises
        ------
        HorenError
            What the server raised; Unavailable ``control_unavailable`` or ``control_timeout`` when it did not answer.
        """
        return self.call_for(method, request, read, timeout_s=self._timeout_s + extra_s)

    def call_for(self, method: Any, request: Any, read: Callable[[Any], B], *, timeout_s: float) -> B:
        """Call `method` once, for `timeout_s` seconds, and return its answer; raises as `call`."""
        try:
            return read(method(request, timeout=timeout_s))
        except grpc.RpcError as exc:
            raise error_from_rpc(exc, self.target) from exc

    def call_again(self, method: Any, request: Any, read: Callable[[Any], B]) -> B:
        """Call `method` as `call` does, up to four times within about a second while nobody answers."""
        return _retrying()(lambda: self.call(method, request, read))

    def stream(
        self,
        method: Any,
        request: Any,
        read: Callable[[Any], B],
        *,
        timeout_s: float | None,
        on_open: Callable[[], None] = lambda: None,
    ) -> Iterator[B]:
        """Yield the answers of `method`; the stream ends quietly after `timeout_s` seconds.

        Parameters
        ----------
        on_open
            Called once the server has taken the call, be its first answer still to come.

        Raises
        ------
        HorenError
            As `call`.
        """
        responses = method(request, timeout=timeout_s)
        try:
            # Our servers begin every answer with the call's id; where nobody answers there is nothing.
            if responses.initial_metadata():
                on_open()
            for response in responses:
                yield read(response)
        except grpc.RpcError as exc:
            if exc.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                raise error_from_rpc(exc, self.target) from exc
        finally:
            responses.cancel()

    def whole_stream(self, method: Any, request: Any, *, timeout_s: float | None) -> Iterator[Any]:
        """Yield the answers of `method`, all of them; raises as `call`, also after `timeout_s` seconds."""
        responses = method(request, timeout=timeout_s)
        try:
            yield from responses
        except grpc.RpcError as exc:
            raise error_from_rpc(exc, self.target) from exc
        finally:
            responses.cancel()

    def upload(
        self,
        method: Any,
        requests: Callable[[], Iterator[Any]],
        read: Callable[[Any], B],
        *,
        timeout_s: float | None,
    ) -> B:
        """Call `method` with a stream of requests, which `requests` begins anew for each attempt of `call_again`."""

        def call() -> B:
            try:
                return read(method(requests(), timeout=timeout_s))
            except grpc.RpcError as exc:
                raise error_from_rpc(exc, self.target) from exc

        return _retrying()(call)

    def close(self) -> None:
        """Close the channel; running streams end."""
        self.closed = True
        self._open.close()

    def pages(self, method: Any, request: Any) -> Iterator[Any]:
        """Yield the answers of a list method page by page, each called as `call_again` does; moves `request` on."""
        while True:
            page = self.call_again(method, request, lambda message: message)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


def fresh(request_id: str | None) -> str:
    """Return the request id, or one of its own for this call, so that it can be repeated when nobody answers."""
    return request_id or str(uuid.uuid4())


def _channel(target: str, tls: ClientTls | None) -> Any:
    # What is for this machine, keys in clear text among it, does not pass through the proxy of the environment.
    options = (*_OPTIONS, ("grpc.enable_http_proxy", 0)) if is_loopback(host_of(target)) else _OPTIONS
    if tls is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, tls.credentials(), options=(*options, *tls.options()))


def _retrying() -> Retrying:
    return Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=0.1, max=0.5),
        retry=retry_if_exception(_nobody_answered),
        reraise=True,
    )


def _nobody_answered(exc: BaseException) -> bool:
    return isinstance(exc, HorenError) and exc.code == "control_unavailable"
