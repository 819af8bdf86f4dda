"""The calls that carry a codebook's file: streams with back-pressure, of which a few are worked on at once."""
# ruff: noqa: N802 - the protocol names the methods.

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, BinaryIO, Final

from horen_vllm.control import convert_changes, limits, names
from horen_vllm.control._pb.horen.v1 import codebooks_pb2
from horen_vllm.control.backend import Backend
from horen_vllm.control.book_files import BookFiles, spool
from horen_vllm.control.bookfile.layout import MAX_FILE_BYTES, invalid_export
from horen_vllm.control.request_keys import request_key
from horen_vllm.control.views import Views
from horen_vllm.errors import InvalidArgument, Unavailable
from horen_vllm.registry.portable import ImportRecord

PIECE_BYTES: Final = 1024**2
"""Of an export's message."""
MAX_PIECE_BYTES: Final = 4 * 1024**2
"""Of an import's message."""
AT_ONCE: Final = 2
"""Files that are made or taken in at the same time; others wait, unread."""
STALL_S: Final = 60.0
"""Longest wait for the next piece of a file."""


class BookTransfers:
    """The part of ``horen.v1.CodebookService`` that sends and takes files.

    Parameters
    ----------
    files
        Makes and reads them.
    views
        What clients see of codebooks.
    backend
        Where blocking work runs.
    """

    def __init__(self, files: BookFiles, views: Views, backend: Backend) -> None:
        self._files = files
        self._seen = views
        self._work = backend
        self._places = asyncio.Semaphore(AT_ONCE)

    async def ExportCodebook(
        self, request: codebooks_pb2.ExportCodebookRequest, _context: Any
    ) -> AsyncIterator[codebooks_pb2.ExportCodebookResponse]:
        """Send a revision as a file, as fast as the client reads it."""
        name = names.requested_codebook(request.name)
        revision = limits.check_revision(request.revision, "revision") if request.revision else None
        with spool() as file:
            async with self._places:
                await self._work.call(partial(self._files.export, name, revision, file))
            while data := await self._work.call(partial(file.read, PIECE_BYTES)):
                yield codebooks_pb2.ExportCodebookResponse(data=data)

    async def ImportCodebook(
        self, requests: AsyncIterator[codebooks_pb2.ImportCodebookRequest], _context: Any
    ) -> codebooks_pb2.ImportCodebookResponse:
        """Take a file into a codebook, once it is here as a whole."""
        with spool() as file:
            async with self._places:
                first = await self._received(requests, file)
                record = await self._work.call(partial(self._bring_in, first, file))
        view = await self._work.call(partial(self._seen.codebook_of, record.codebook))
        return convert_changes.import_to_proto(view, record.counts)

    async def _received(
        self, requests: AsyncIterator[codebooks_pb2.ImportCodebookRequest], file: BinaryIO
    ) -> codebooks_pb2.ImportCodebookRequest:
        """Write the pieces into `file`; return what the first message says beside its piece."""
        first: codebooks_pb2.ImportCodebookRequest | None = None
        size = 0
        pieces = aiter(requests)
        while (message := await _next(pieces)) is not None:
            if first is None:
                first = codebooks_pb2.ImportCodebookRequest(
                    name=message.name, request_id=message.request_id, validate_only=message.validate_only
                )
                names.requested_codebook(first.name)
            size += len(message.data)
            _check_sizes(len(message.data), size)
            await self._work.call(partial(file.write, message.data))
        if first is None:
            raise invalid_export("it is empty")
        return first

    def _bring_in(self, first: codebooks_pb2.ImportCodebookRequest, file: BinaryIO) -> ImportRecord:
        name = names.requested_codebook(first.name)
        key = request_key("ImportCodebook", name.tenant, first)
        return self._files.bring_in(name, file, key, validate_only=first.validate_only)


async def _next(
    pieces: AsyncIterator[codebooks_pb2.ImportCodebookRequest],
) -> codebooks_pb2.ImportCodebookRequest | None:
    """Return the next piece; None: that was all.

    Raises
    ------
    Unavailable
        ``import_stalled``, when none comes: others wait for this one's place.
    """
    try:
        return await asyncio.wait_for(anext(pieces, None), STALL_S)
    except TimeoutError as exc:
        message = f"no piece of the file came for {STALL_S:g} s; send it again, with the same request id."
        raise Unavailable(message, code="import_stalled") from exc


def _check_sizes(piece: int, total: int) -> None:
    if piece > MAX_PIECE_BYTES:
        message = f"a piece of the file has {piece} bytes; at most {MAX_PIECE_BYTES} are allowed."
        raise InvalidArgument(message, code="message_too_large")
    if total > MAX_FILE_BYTES:
        raise invalid_export(f"it has more than {MAX_FILE_BYTES // 1024**3} GiB")
