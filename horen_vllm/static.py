"""Codebooks as plain files: a folder that an engine serves without a registry, and that is made from one.

::

    DIR/<tenant>/<codebook>/codebook.json
    DIR/<tenant>/<codebook>/<ab>/<sha256>.safetensors    one file an entry, as in an artifact folder; and the
                                                         codebook's routing space, if it has a fitted one
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from horen_vllm.artifact import EntryArtifact, decode_entry, named_after
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.artifacts.store import ArtifactStore
from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.errors import DataLoss, HorenError, NotFound
from horen_vllm.ids import CodebookName
from horen_vllm.spaces import decode_space

FORMAT_VERSION: Final = 1
_DESCRIPTION: Final = "codebook.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticEntry:
    """One entry of a static codebook, before its file is read."""

    edit_id: str
    sequence: int
    """Of equal scores the entry with the higher sequence wins."""
    artifact: str
    """sha256 of the entry's file, in hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticDescription:
    """One revision of a codebook, as ``codebook.json`` describes it."""

    name: CodebookName
    model: str
    """Name under which the base model was served."""
    fingerprint: str
    """Base model that the keys are valid for."""
    site: str
    """Module name of the edit site."""
    revision: int
    parameters: MethodParameters
    entries: tuple[StaticEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticCodebook:
    """One revision of a codebook, read and verified."""

    name: CodebookName
    digest: str
    """sha256, in hex, of its description, which names entries and routing space by the digests of their files."""
    fingerprint: str
    """Base model that the keys are valid for."""
    revision: int
    parameters: MethodParameters
    entries: tuple[tuple[int, str, EntryArtifact], ...]
    """(sequence, artifact digest, entry) of each entry."""
    space: RoutingSpace | None = None
    """Its fitted routing space; None for the identity."""


def list_static(folder: Path) -> list[StaticDescription]:
    """Return the codebooks in `folder` by name, without reading their entries.

    Raises
    ------
    NotFound
        ``static_dir_missing``.
    DataLoss
        ``static_codebook_invalid``, naming the file.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder} of static codebooks.", code="static_dir_missing")
    return sorted((_described(path) for path in folder.glob(f"*/*/{_DESCRIPTION}")), key=lambda codebook: codebook.name)


def read_static(folder: Path) -> Iterator[StaticCodebook]:
    """Yield the codebooks in `folder` by name, one in memory at a time.

    Raises
    ------
    NotFound
        ``static_dir_missing``, or ``unknown_artifact``, naming the file.
    DataLoss
        ``static_codebook_invalid``, ``artifact_corrupt`` or ``artifact_unreadable``, naming the file.
    FailedPrecondition
        ``fingerprint_mismatch``, when the routing space was fitted on another base model than the codebook's.
    """
    for codebook in list_static(folder):
        artifacts = ArtifactFolder(_codebook_folder(folder, codebook.name))
        entries = ((entry.sequence, entry.artifact, _read(artifacts, entry)) for entry in codebook.entries)
        yield StaticCodebook(
            name=codebook.name,
            digest=hashlib.sha256(_text(codebook).encode()).hexdigest(),
            fingerprint=codebook.fingerprint,
            revision=codebook.revision,
            parameters=codebook.parameters,
            entries=tuple(entries),
            space=_space(artifacts, codebook),
        )


def write_static(folder: Path, codebook: StaticDescription, artifacts: ArtifactStore) -> Path:
    """Write `codebook` under `folder` with the files that `artifacts` has; return its ``codebook.json``.

    The description is replaced last and at once, so that a reader sees the old codebook or the new one.

    Raises
    ------
    NotFound, DataLoss, FailedPrecondition
        As `read_static`; then nothing is replaced.
    """
    target = _codebook_folder(folder, codebook.name)
    copies = ArtifactFolder(target)
    for entry in codebook.entries:
        _read(artifacts, entry)
        artifacts.fetch(entry.artifact, copies.path(entry.artifact))
    if codebook.parameters.space is not None:
        _space(artifacts, codebook)
        artifacts.fetch(codebook.parameters.space, copies.path(codebook.parameters.space))
    described = write_description(folder, codebook)
    _remove_others(target, {entry.artifact for entry in codebook.entries} | {codebook.parameters.space})
    return described


def write_description(folder: Path, codebook: StaticDescription) -> Path:
    """Write `codebook`'s ``codebook.json`` under `folder`, all at once, and return it; its files are not looked at."""
    target = _codebook_folder(folder, codebook.name)
    target.mkdir(parents=True, exist_ok=True)
    _replace(target / _DESCRIPTION, _text(codebook))
    return target / _DESCRIPTION


def _codebook_folder(folder: Path, name: CodebookName) -> Path:
    return folder / name.tenant / name.codebook


def _text(codebook: StaticDescription) -> str:
    return json.dumps(_description(codebook), indent=2, sort_keys=True) + "\n"


def _description(codebook: StaticDescription) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "model": codebook.model,
        "fingerprint": codebook.fingerprint,
        "site": codebook.site,
        "revision": codebook.revision,
        "parameters": codebook.parameters.to_dict(),
        "entries": [
            {"edit_id": entry.edit_id, "sequence": entry.sequence, "artifact": entry.artifact}
            for entry in codebook.entries
        ],
    }


def _described(path: Path) -> StaticDescription:
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = fields.pop("format_version")
        decoded = {
            "name": CodebookName.parse(f"tenants/{path.parent.parent.name}/codebooks/{path.parent.name}"),
            "revision": int(fields["revision"]),
            "parameters": MethodParameters.from_dict(fields["parameters"]),
            "entries": tuple(StaticEntry(**entry) for entry in fields["entries"]),
        }
        described = StaticDescription(**{**fields, **decoded})
    except (HorenError, KeyError, TypeError, ValueError, AttributeError) as exc:
        message = f"{path} does not describe a codebook: {exc!r}."
        raise DataLoss(message, code="static_codebook_invalid") from exc
    if version != FORMAT_VERSION:
        message = f"{path} has format version {version}; this build reads {FORMAT_VERSION}."
        raise DataLoss(message, code="static_codebook_invalid")
    return described


def _space(artifacts: ArtifactStore, codebook: StaticDescription) -> RoutingSpace | None:
    digest = codebook.parameters.space
    if digest is None:
        return None
    with _named(artifacts.where(digest)):
        return decode_space(artifacts.read(digest), codebook.fingerprint)


def _read(artifacts: ArtifactStore, entry: StaticEntry) -> EntryArtifact:
    with _named(artifacts.where(entry.artifact)):
        return named_after(decode_entry(artifacts.read(entry.artifact)), entry.edit_id)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Name the file in the errors of reading it."""
    try:
        yield
    except HorenError as exc:
        raise type(exc)(f"{path}: {exc.message}", code=exc.code) from exc


def _replace(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".save-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _remove_others(target: Path, kept: Collection[str | None]) -> None:
    for path in target.glob("??/*.safetensors"):
        if path.stem not in kept:
            path.unlink()
