"""The client's calls that carry a codebook's file."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from horen_vllm.control import convert, convert_changes
from horen_vllm.control._pb.horen.v1 import codebooks_pb2
from horen_vllm.control.messages import ImportView
from horen_vllm.control.names import codebook_path
from horen_vllm.control.transport import Transport, fresh
from horen_vllm.ids import CodebookName

PIECE_BYTES: Final = 1024**2

Progress = Callable[[int], None]
"""Is told how many more bytes have gone or come."""


def _quiet(_more: int) -> None:
    """Tell nobody."""


class BookFileCalls:
    """Part of `HorenClient`: codebooks to files and back."""

    _transport: Transport
    _codebooks: Any

    def export_codebook(
        self,
        codebook: CodebookName | str,
        target: Path,
        *,
        revision: int | None = None,
        progress: Progress = _quiet,
        timeout_s: float | None = None,
    ) -> int:
        """Write a revision (default: the current one) as the file `target`, all at once; return its bytes.

        Raises
        ------
        NotFound
            ``unknown_codebook``, ``unknown_revision`` or ``revision_pruned``.
        FailedPrecondition
            ``artifacts_unset``, when the control plane does not know the artifact store.
        OSError
            When the file cannot be written; nothing is left then.
        """
        request = convert.message_of(
            codebooks_pb2.ExportCodebookRequest, name=codebook_path(codebook), revision=revision
        )
        pieces = self._transport.whole_stream(self._codebooks.ExportCodebook, request, timeout_s=timeout_s)
        size = 0
        with _replaced(target) as file:
            for piece in pieces:
                file.write(piece.data)
                size += len(piece.data)
                progress(len(piece.data))
        return size

    def import_codebook(
        self,
        codebook: CodebookName | str,
        source: Path,
        *,
        request_id: str | None = None,
        validate_only: bool = False,
        progress: Progress = _quiet,
        timeout_s: float | None = None,
    ) -> ImportView:
        """Bring the edits of the file `source` into a codebook, as one revision.

        What was retired, here or where the file was made, stays retired. While nobody answers it is tried again, like
        the other calls.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        InvalidArgument
            ``invalid_export``, for a file that no export wrote, or that was cut or altered since.
        FailedPrecondition
            ``import_mismatch``, for a file of another base model or other parameters; ``import_conflict``, when another
            edit with the prompt of one of its entries is active; ``revision_moved``; ``artifacts_unset``.
        AlreadyExists
            ``request_id_reused``.
        ResourceExhausted
            ``quota_exceeded``.
        OSError
            When the file cannot be read.
        """
        first = convert.message_of(
            codebooks_pb2.ImportCodebookRequest,
            name=codebook_path(codebook),
            request_id=fresh(request_id),
            validate_only=validate_only,
        )
        with source.open("rb") as file:
            return self._transport.upload(
                self._codebooks.ImportCodebook,
                lambda: _messages(first, file, progress),
                convert_changes.import_from_proto,
                timeout_s=timeout_s,
            )


@contextmanager
def _replaced(target: Path) -> Iterator[BinaryIO]:
    """Give a file that takes the place of `target` once it is written as a whole."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _messages(
    first: codebooks_pb2.ImportCodebookRequest, file: BinaryIO, progress: Progress
) -> Iterator[codebooks_pb2.ImportCodebookRequest]:
    file.seek(0, os.SEEK_SET)
    yield first
    while data := file.read(PIECE_BYTES):
        yield codebooks_pb2.ImportCodebookRequest(data=data)
        progress(len(data))
