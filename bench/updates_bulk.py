"""Loading a large codebook into a server that runs: a file of made entries, its import, and its way into the server.

The file has some edits that were really made, so that the server has something to ask itself about, as it has after any
bulk load; all other entries are random.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional as F

from bench.intervals import interval
from bench.made_entries import EntryForm, active_edit
from horen_vllm.artifact import decode_entry, encode_entry
from horen_vllm.artifacts.store import digest_of
from horen_vllm.control.bookfile.header import BookHeader
from horen_vllm.control.bookfile.reading import BookReader
from horen_vllm.control.bookfile.writing import BookWriter
from horen_vllm.control.client import HorenClient
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EditSpec
from horen_vllm.registry.portable import PortableEdit, PortableState

BOOK: Final = "bulk"
EMPTY_REVISION: Final = 1
TARGET_TOKENS: Final = 3
"""Of a made entry; with the end of the answer it has one vector more."""
_TIMEOUT_S: Final = 3600.0
_LEAST: Final = 6
"""Values between whose ends the median lies in 95 % of cases."""


@dataclass(frozen=True, slots=True)
class BulkFile:
    """A codebook's file with made entries.

    Attributes
    ----------
    entries
        All of them.
    file_bytes, artifact_bytes
        Of the file, and of the entries in it.
    pool_bytes
        Keys and values as the server holds them, in float32.
    """

    path: Path
    entries: int
    file_bytes: int
    artifact_bytes: int
    pool_bytes: int


class MadeEdits:
    """Random entries of one form, each made anew from its number.

    Parameters
    ----------
    header
        Of the file that they are to stand in.
    widths
        Of keys and of value vectors.
    """

    def __init__(self, header: BookHeader, widths: tuple[int, int]) -> None:
        self._form = EntryForm.of(header.parameters, TARGET_TOKENS, fingerprint=header.fingerprint, site=header.site)
        self._widths = widths

    @property
    def numbers_an_entry(self) -> int:
        """Numbers of an entry's key and vectors."""
        return self._widths[0] + self._form.value_rows * self._widths[1]

    def artifact(self, number: int) -> bytes:
        """Return the file of one entry."""
        generator = torch.Generator().manual_seed(number)
        key = F.normalize(torch.randn(1, self._widths[0], generator=generator), dim=-1)
        values = torch.randn(self._form.value_rows, self._widths[1], generator=generator)
        return encode_entry(self._form.entry(_edit_id(number), key, values))

    def edit(self, number: int, sequence: int, digest: str) -> PortableEdit:
        """Return the edit of one entry."""
        spec = EditSpec(prompt=f"What does the record number {number} say?", target=f"Entry {number}")
        return active_edit(_edit_id(number), sequence, spec, digest)


def write_bulk_file(exported: Path, target: Path, entries: int) -> BulkFile:
    """Write an exported file again, with random entries behind its own until it has `entries` of them.

    Raises
    ------
    ValueError
        When it has no entry, or as many already.
    """
    with exported.open("rb") as source, target.open("w+b") as file:
        reader = BookReader(source)
        own = [edit for edit in reader.edits() if edit.state is PortableState.ACTIVE and edit.artifact]
        if not 0 < len(own) < entries:
            raise ValueError(f"{len(own)} entries cannot be made {entries}")
        example = decode_entry(reader.artifact(own[0].artifact or ""))
        made = MadeEdits(reader.header, (example.keys.shape[1], example.values.shape[1]))
        numbers = range(entries - len(own))
        # Twice from the same numbers: all entries together are not held in memory.
        digests = [digest_of(made.artifact(number)) for number in numbers]
        size = 0
        with BookWriter(file) as writer:
            writer.write_header(replace(reader.header, entries=entries))
            writer.write_edits(_edits(own, made, digests))
            for digest, data in _artifacts(reader, own, made, digests):
                writer.write_artifact(digest, data)
                size += len(data)
    pool = 4 * made.numbers_an_entry * entries
    return BulkFile(target, entries, target.stat().st_size, size, pool)


def bring_in(client: HorenClient, file: BulkFile, *, preset: str, threshold: float) -> dict[str, Any]:
    """Import the file into a new codebook; return how long registry and server took.

    The first load of a server's life starts the process that packs large updates, which later ones find running.
    """
    client.create_codebook(BOOK, preset=preset, threshold=threshold)
    client.wait_serving(BOOK, EMPTY_REVISION, timeout_s=_TIMEOUT_S)
    began = time.perf_counter()
    view = client.import_codebook(BOOK, file.path, timeout_s=_TIMEOUT_S)
    imported = time.perf_counter()
    if view.added != file.entries:
        raise RuntimeError(f"{view.added} of {file.entries} entries came in.")
    client.wait_serving(BOOK, view.codebook.revision, timeout_s=_TIMEOUT_S)
    served = time.perf_counter()
    return {
        "revision": view.codebook.revision,
        "import": rates(file, [imported - began]),
        "import_to_serving": rates(file, [served - began]),
        "first_load": rates(file, [served - imported]),
    }


def load_again(client: HorenClient, file: BulkFile, full: int, trials: int) -> dict[str, Any]:
    """Return how long the server takes from a revision with all entries to SERVING, each time from an empty codebook.

    The registry and the artifacts have everything before; the server has nothing of it.
    """
    loads, unloads = [], []
    for _ in range(trials):
        unloads.append(_moved(client, EMPTY_REVISION))
        loads.append(_moved(client, full))
    return {"load": rates(file, loads), "unload_s": [round(seconds, 3) for seconds in unloads]}


def rates(file: BulkFile, seconds: list[float]) -> dict[str, Any]:
    """Return entries and bytes a second, from the median of some times, and its interval where they are six or more."""
    found = interval(seconds)
    middle = found["median"]
    ends = [round(found[end], 3) for end in ("low", "high")] if len(seconds) >= _LEAST else None
    return {
        "seconds": [round(each, 3) for each in seconds],
        "median_s": round(middle, 3),
        "interval_s": ends,
        "entries_a_second": round(file.entries / middle, 1),
        "artifact_mb_a_second": round(file.artifact_bytes / middle / 1e6, 2),
        "pool_mb_a_second": round(file.pool_bytes / middle / 1e6, 2),
    }


def _moved(client: HorenClient, revision: int) -> float:
    began = time.perf_counter()
    client.wait_serving(BOOK, client.rollback(BOOK, revision).number, timeout_s=_TIMEOUT_S)
    return time.perf_counter() - began


def _edit_id(number: int) -> EditId:
    return EditId(f"made{number:08d}")


def _edits(own: list[PortableEdit], made: MadeEdits, digests: list[str]) -> Iterator[PortableEdit]:
    yield from own
    first = own[-1].sequence + 1
    for number, digest in enumerate(digests):
        yield made.edit(number, first + number, digest)


def _artifacts(
    reader: BookReader, own: list[PortableEdit], made: MadeEdits, digests: list[str]
) -> Iterator[tuple[str, bytes]]:
    for edit in own:
        yield edit.artifact or "", reader.artifact(edit.artifact or "")
    for number, digest in enumerate(digests):
        yield digest, made.artifact(number)
