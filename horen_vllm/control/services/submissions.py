"""The methods of EditService that store edits."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

# The first check of an edit needs PyTorch, and must not wait for it.
import horen_vllm.core.admission  # noqa: F401
from horen_vllm.control import convert, limits, names
from horen_vllm.control._pb.horen.v1 import edits_pb2
from horen_vllm.control.backend import Backend
from horen_vllm.control.group_commit import GroupCommit, Outcome
from horen_vllm.control.request_keys import request_key
from horen_vllm.control.settings import ControlSettings
from horen_vllm.control.status import shorten, status_of
from horen_vllm.control.validation import check_message
from horen_vllm.control.views import Views
from horen_vllm.errors import FailedPrecondition, HorenError, InvalidArgument
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import CodebookRecord
from horen_vllm.registry.ports import Registry
from horen_vllm.registry.submission import Submission

OUTSTANDING: Final = 256
"""Edits of one stream that are on their way; the server reads no further before the first of them is answered."""
_QUICK_BYTES: Final = 16_384
"""A request up to this size is checked on the event loop, in less time than a thread takes to begin."""
_KNOWN_BOOKS: Final = 10_000


class Submissions:
    """Takes edits in.

    Parameters
    ----------
    registry
        Where they are stored.
    views
        What clients see of them.
    backend
        Where blocking work runs.
    settings
        The base model whose codebooks take edits.
    """

    def __init__(self, registry: Registry, views: Views, backend: Backend, settings: ControlSettings) -> None:
        self._registry = registry
        self._views = views
        self._backend = backend
        self._settings = settings
        self._group = GroupCommit(self._store, backend)
        self._served: set[CodebookName] = set()

    async def take(self, request: edits_pb2.SubmitEditRequest) -> edits_pb2.Edit:
        """Store an edit, or check it only, and return it.

        Raises
        ------
        HorenError
            What is wrong with it.
        """
        submission = await self.admit(request)
        if request.validate_only:
            outcome: Outcome = await self._backend.call(partial(self._check, submission))
        else:
            outcome = await self._group.submit(submission)
        if isinstance(outcome, HorenError):
            raise outcome
        return convert.edit_to_proto(outcome)

    async def admit(self, request: edits_pb2.SubmitEditRequest) -> Submission:
        """Return the submission that a request stands for; raises what is wrong with it, whatever is stored."""
        if request.ByteSize() <= _QUICK_BYTES:
            submission = _submission(request)
        else:
            submission = await self._backend.call(partial(_submission, request))
        await self.check_model(submission.codebook)
        return submission

    async def check_model(self, name: CodebookName) -> None:
        """Refuse a codebook of another base model: the workers beside this control plane would never take its edits.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        FailedPrecondition
            ``fingerprint_mismatch``.
        """
        if name not in self._served:
            await self._backend.call(partial(self._look_up, name))

    def store(self, submission: Submission) -> "asyncio.Future[Outcome]":
        """Return what becomes of an admitted submission, once it is stored."""
        return self._group.submit(submission)

    def check(self, submission: Submission) -> "asyncio.Future[Outcome]":
        """Return what would become of it."""
        return asyncio.ensure_future(self._backend.call(partial(self._check, submission)))

    def _look_up(self, name: CodebookName) -> None:
        codebook = self._registry.get_codebook(name)
        if codebook.fingerprint != self._settings.fingerprint:
            raise _mismatch(codebook, self._settings)
        # A name is never used again, and a codebook keeps its base model; so once is enough.
        if len(self._served) >= _KNOWN_BOOKS:
            self._served.clear()
        self._served.add(name)

    def _store(self, submissions: Sequence[Submission]) -> Sequence[Outcome]:
        return self._seen(self._registry.submit_many(submissions))

    def _check(self, submission: Submission) -> Outcome:
        return self._seen(self._registry.submit_many((submission,), validate_only=True))[0]

    def _seen(self, outcomes: Sequence[Any]) -> Sequence[Outcome]:
        stored = [it for it in outcomes if not isinstance(it, HorenError)]
        views = iter(self._views.stored(stored, self._settings.fingerprint))
        return [it if isinstance(it, HorenError) else next(views) for it in outcomes]


class SubmissionStream:
    """One stream of edits, answered in order.

    Parameters
    ----------
    submissions
        Takes them in.
    requests
        The client's.
    """

    def __init__(self, submissions: Submissions, requests: AsyncIterator[edits_pb2.SubmitEditsRequest]) -> None:
        self._submissions = submissions
        self._requests = requests
        self._parent: str | None = None
        self._under_way: asyncio.Queue[_Entry | _End] = asyncio.Queue(OUTSTANDING)

    async def answers(self) -> AsyncIterator[edits_pb2.SubmitEditsResponse]:
        """Yield what becomes of each request.

        What ends the stream of requests, such as a name of another tenant, ends this one, behind the answers to those
        before it.
        """
        reading = asyncio.create_task(self._read())
        try:
            index = 0
            while isinstance(entry := await self._under_way.get(), _Entry):
                yield _answer(index, await _outcome(entry))
                index += 1
            if entry.error is not None:
                raise entry.error
        finally:
            reading.cancel()
            self._forget()

    async def _read(self) -> None:
        error: Exception | None = None
        try:
            async for request in self._requests:
                await self._under_way.put(await self._begin(request.edit))
        except Exception as exc:  # noqa: BLE001 - it is the other task's to raise
            error = exc
        await self._under_way.put(_End(error))

    async def _begin(self, request: edits_pb2.SubmitEditRequest) -> "_Entry":
        try:
            check_message(request)
            if self._parent is None:
                self._parent = request.parent
            if request.parent != self._parent:
                message = f"the edits of a stream are of one codebook: the first one is of {self._parent}."
                raise InvalidArgument(message, code="mixed_codebooks")
            submission = await self._submissions.admit(request)
        except HorenError as error:
            return _Entry(error)
        take = self._submissions.check if request.validate_only else self._submissions.store
        return _Entry(take(submission))

    def _forget(self) -> None:
        """Leave undone what nobody waits for any more and has not begun."""
        while not self._under_way.empty():
            entry = self._under_way.get_nowait()
            if isinstance(entry, _Entry) and isinstance(entry.outcome, asyncio.Future):
                entry.outcome.cancel()


@dataclass(frozen=True, slots=True)
class _Entry:
    outcome: "asyncio.Future[Outcome] | HorenError"


@dataclass(frozen=True, slots=True)
class _End:
    error: Exception | None


async def _outcome(entry: _Entry) -> Outcome:
    return entry.outcome if isinstance(entry.outcome, HorenError) else await entry.outcome


def _answer(index: int, outcome: Outcome) -> edits_pb2.SubmitEditsResponse:
    if isinstance(outcome, HorenError):
        return edits_pb2.SubmitEditsResponse(index=index, refusal=refusal_of(outcome))
    return edits_pb2.SubmitEditsResponse(index=index, edit=convert.edit_to_proto(outcome))


def refusal_of(error: HorenError) -> edits_pb2.Refusal:
    """Return the message of an error that ends no call."""
    number: int = status_of(error).value[0]
    return edits_pb2.Refusal(code=error.code, message=shorten(error.message), status=number)


def _submission(request: edits_pb2.SubmitEditRequest) -> Submission:
    codebook = names.requested_codebook(request.parent)
    return Submission(
        codebook=codebook,
        spec=limits.check_spec(convert.spec_from_proto(request.spec)),
        request=request_key("SubmitEdit", codebook.tenant, request),
        ttl_s=limits.check_ttl(request),
    )


def _mismatch(codebook: CodebookRecord, settings: ControlSettings) -> FailedPrecondition:
    message = (
        f"{codebook.name} is for the model {codebook.model!r} (fingerprint {codebook.fingerprint[:12]}), but "
        f"{settings.model!r} (fingerprint {settings.fingerprint[:12]}) is served: make a codebook for that one."
    )
    return FailedPrecondition(message, code="fingerprint_mismatch")
