"""The client's half of a stream of submissions: what was not answered is sent again when the server goes away."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from horen_vllm.control import convert
from horen_vllm.control._pb.horen.v1 import edits_pb2
from horen_vllm.control.messages import SubmitOutcome
from horen_vllm.control.status import error_of
from horen_vllm.control.transport import ATTEMPTS, Transport
from horen_vllm.errors import Unavailable

_PAUSE_S: Final = 0.1
"""Before the second attempt; twice as long before each further one."""


class SubmitStream:
    """Submissions on their way; every request has an id of its own, so that one sent twice is stored once.

    Parameters
    ----------
    transport
        How to call.
    method
        The stub of ``SubmitEdits``.
    requests
        What to submit; read from other threads, one at a time.
    """

    def __init__(self, transport: Transport, method: Any, requests: Iterator[edits_pb2.SubmitEditsRequest]) -> None:
        self._transport = transport
        self._method = method
        self._source = requests
        self._source_lock = threading.Lock()
        self._lock = threading.Lock()
        self._unanswered: deque[edits_pb2.SubmitEditsRequest] = deque()
        self._answered = 0
        self._failure: BaseException | None = None

    def outcomes(self) -> Iterator[SubmitOutcome]:
        """Yield what becomes of each request, in order.

        Raises
        ------
        HorenError
            What ended the stream; Unavailable when there was no server within about a second.
        """
        failures = 0
        while True:
            try:
                for outcome in self._attempt():
                    failures = 0
                    yield outcome
                break
            except Unavailable:
                failures += 1
                if failures == ATTEMPTS or self._transport.closed:
                    raise
                time.sleep(_PAUSE_S * 2 ** (failures - 1))
        if self._failure is not None:
            raise self._failure

    def _attempt(self) -> Iterator[SubmitOutcome]:
        over = threading.Event()
        try:
            for response in self._transport.whole_stream(self._method, self._feed(over), timeout_s=None):
                with self._lock:
                    self._unanswered.popleft()
                    number = self._answered
                    self._answered += 1
                yield _outcome(number, response)
        finally:
            over.set()

    def _feed(self, over: threading.Event) -> Iterator[edits_pb2.SubmitEditsRequest]:
        """Yield what is unanswered, then what is new, for one attempt."""
        with self._lock:
            place = self._answered
        while (request := self._request(place, over)) is not None:
            yield request
            place += 1

    def _request(self, place: int, over: threading.Event) -> edits_pb2.SubmitEditsRequest | None:
        # The feeder of an attempt that failed may still be here, waiting for the source.
        with self._source_lock:
            if over.is_set() or not (self._has(place) or self._read_one()):
                return None
            with self._lock:
                return self._unanswered[place - self._answered]

    def _has(self, place: int) -> bool:
        with self._lock:
            return place < self._answered + len(self._unanswered)

    def _read_one(self) -> bool:
        if self._failure is not None:
            return False
        try:
            request = next(self._source, None)
        except BaseException as error:  # noqa: BLE001 - raised again where the outcomes are read
            self._failure = error
            return False
        if request is None:
            return False
        with self._lock:
            self._unanswered.append(request)
        return True


def _outcome(number: int, response: edits_pb2.SubmitEditsResponse) -> SubmitOutcome:
    if response.HasField("edit"):
        return SubmitOutcome(index=number, edit=convert.edit_from_proto(response.edit))
    refusal = response.refusal
    return SubmitOutcome(index=number, error=error_of(refusal.status, refusal.message, refusal.code))
