"""Static mode: codebooks from a folder, applied once when the engine starts."""

from pathlib import Path

import structlog

from horen_vllm.errors import FailedPrecondition
from horen_vllm.fingerprint import model_fingerprint
from horen_vllm.pack import build_pack
from horen_vllm.plugin.codebooks import PagedCodebooks, Update
from horen_vllm.static import read_static

log = structlog.get_logger(__name__)


def load(codebooks: PagedCodebooks, folder: str, model: str, site: str) -> None:
    """Apply every codebook of `folder`.

    Raises
    ------
    FailedPrecondition
        ``fingerprint_mismatch`` when one was made for another base model, or why it cannot be prepared.
    """
    own = model_fingerprint(model, site)
    for book in read_static(Path(folder)):
        if book.fingerprint != own:
            message = f"static codebook {book.name} was made for another base model than {model!r}."
            raise FailedPrecondition(message, code="fingerprint_mismatch")
        update = Update(
            codebook=str(book.name),
            base_revision=0,
            revision=book.revision,
            parameters=book.parameters,
            added=build_pack(book.entries, book.space),
        )
        codebooks.flip(codebooks.prepare(update), base_revision=0)
        log.info("static codebook applied", codebook=str(book.name), revision=book.revision, entries=len(book.entries))
