"""Codebooks to files and back: what an export writes, and what an import takes."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import BinaryIO, Final

from horen_vllm.artifacts.store import ArtifactStore, digest_of
from horen_vllm.control.bookfile.adopting import adopted
from horen_vllm.control.bookfile.header import BookHeader
from horen_vllm.control.bookfile.reading import BookReader
from horen_vllm.control.bookfile.writing import BookWriter
from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import FailedPrecondition
from horen_vllm.ids import CodebookName, EditId, new_edit_id
from horen_vllm.registry.edit_ports import ArtifactRegister
from horen_vllm.registry.models import CodebookRecord, RequestKey, RevisionRecord
from horen_vllm.registry.portable import ImportedEdit, ImportRecord, PortableEdit, PortableState
from horen_vllm.registry.ports import Registry

_PAGE: Final = 500
"""Edits that are read, or looked up, at once."""
_TOGETHER: Final = 64
"""Artifacts that are registered at once, and in memory meanwhile."""
_IN_MEMORY: Final = 8 * 1024**2
"""Bytes of a file up to which it needs no disk."""


def spool() -> BinaryIO:
    """Return an empty file for one codebook, which is gone when it is closed."""
    return tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # type: ignore[return-value]


class BookFiles:
    """Writes and reads the files of codebooks; every method blocks.

    Parameters
    ----------
    registry
        Where the edits are.
    artifacts
        Where the entries are; None: nowhere that this process knows.
    """

    def __init__(self, registry: Registry, artifacts: ArtifactStore | None) -> None:
        self._registry = registry
        self._artifacts = artifacts

    def export(self, name: CodebookName, revision: int | None, file: BinaryIO) -> None:
        """Write a revision (default: the current one) into an empty file; it stands at its beginning then.

        Raises
        ------
        NotFound
            ``unknown_codebook``, ``unknown_revision`` or ``revision_pruned``; ``unknown_artifact``, for an entry whose
            file is gone.
        FailedPrecondition
            ``artifacts_unset``.
        """
        artifacts = self._store()
        record = self._registry.get_revision(name, revision)
        codebook = self._registry.get_codebook(name)
        parameters = replace(codebook.parameters, threshold=record.threshold)
        with BookWriter(file) as writer:
            writer.write_header(_header(codebook, record, parameters))
            digests = [*_shared(parameters), *writer.write_edits(self._edits(name, record.number))]
            for digest, data in zip(digests, artifacts.read_many(digests), strict=True):
                writer.write_artifact(digest, data)
        file.seek(0)

    def bring_in(
        self, name: CodebookName, file: BinaryIO, request: RequestKey | None, *, validate_only: bool
    ) -> ImportRecord:
        """Bring what a file says into the codebook.

        Parameters
        ----------
        request
            Its digest is replaced by that of the file.

        Raises
        ------
        NotFound
            ``unknown_codebook``.
        InvalidArgument
            ``invalid_export``.
        FailedPrecondition
            ``import_mismatch``, ``import_conflict``, ``revision_moved`` or ``artifacts_unset``.
        ResourceExhausted
            ``quota_exceeded``.
        AlreadyExists
            ``request_id_reused``.
        """
        artifacts = self._store()
        codebook = self._registry.get_codebook(name)
        reader = BookReader(file)
        key = (
            None
            if request is None or validate_only
            else replace(request, digest=digest_of(f"{name} {reader.digest}".encode()))
        )
        made = None if key is None else self._registry.made_import(name, key)
        if made is not None:
            return made
        _require_match(codebook, reader.header)
        luggage = self._looked_up(name, reader)
        _Unpacking(reader, codebook, luggage, self._registry, None if validate_only else artifacts).run()
        return self._registry.import_edits(
            name,
            luggage.imported(reader.edits()),
            threshold=reader.header.parameters.threshold,
            entries=reader.header.entries,
            request=key,
            validate_only=validate_only,
        )

    def _store(self) -> ArtifactStore:
        if self._artifacts is None:
            message = "this control plane does not know the artifact store: start it with --artifacts."
            raise FailedPrecondition(message, code="artifacts_unset")
        return self._artifacts

    def _edits(self, name: CodebookName, revision: int) -> Iterator[PortableEdit]:
        after = 0
        while page := self._registry.portable_edits(name, revision, after_sequence=after, limit=_PAGE):
            yield from page
            after = page[-1].sequence

    def _looked_up(self, name: CodebookName, reader: BookReader) -> "_Luggage":
        luggage = _Luggage()
        edits = reader.edits()
        while batch := list(islice(edits, _PAGE)):
            known = self._registry.known_origins(name, [edit.origin for edit in batch])
            for edit in batch:
                here = known.get(edit.origin)
                edit_id = new_edit_id() if here is None else here.edit_id
                luggage.ids[edit.origin] = luggage.renamed[edit.edit_id] = edit_id
                if edit.state is PortableState.ACTIVE and (here is None or here.wants_entry):
                    luggage.wanted[edit.origin] = edit.artifact or ""
        return luggage


@dataclass(slots=True)
class _Luggage:
    """What is known of a file's edits before they are in: a few words for each, not the edits themselves."""

    ids: dict[EditId, EditId] = field(default_factory=dict)
    """The id that each edit has here, by origin."""
    renamed: dict[str, EditId] = field(default_factory=dict)
    """The same by the id that it had where the file was made."""
    wanted: dict[EditId, str] = field(default_factory=dict)
    """Artifact of the file for each entry that is to come in, by origin."""
    stored: dict[EditId, str] = field(default_factory=dict)
    """Artifact under which it stands here."""

    def imported(self, edits: Iterator[PortableEdit]) -> Iterator[ImportedEdit]:
        """Yield the edits with their ids and artifacts here."""
        for edit in edits:
            yield ImportedEdit(edit=edit, edit_id=self.ids[edit.origin], artifact=self.stored.get(edit.origin))


class _Unpacking:
    """Puts the entries that are to come in, and what all entries need, into the artifact store.

    Parameters
    ----------
    artifacts
        None: everything is checked and nothing stored.
    """

    def __init__(
        self,
        reader: BookReader,
        codebook: CodebookRecord,
        luggage: _Luggage,
        register: ArtifactRegister,
        artifacts: ArtifactStore | None,
    ) -> None:
        self._reader = reader
        self._codebook = codebook
        self._luggage = luggage
        self._register = register
        self._artifacts = artifacts

    def run(self) -> None:
        """Store them; InvalidArgument ``invalid_export``."""
        files = self._files()
        while group := list(islice(files, _TOGETHER)):
            if self._artifacts is not None:
                self._register.register_artifacts({digest_of(data): len(data) for _, data in group})
            for origin, data in group:
                digest = digest_of(data) if self._artifacts is None else self._artifacts.put(data)
                if origin is not None:
                    self._luggage.stored[origin] = digest

    def _files(self) -> Iterator[tuple[EditId | None, bytes]]:
        """Yield what all entries need, and then each entry as it is to stand here, with the edit's origin."""
        for digest in _shared(self._codebook.parameters):
            yield None, self._reader.artifact(digest)
        for origin, digest in self._luggage.wanted.items():
            yield (
                origin,
                adopted(
                    self._reader.artifact(digest),
                    edit_id=self._luggage.ids[origin],
                    fingerprint=self._codebook.fingerprint,
                    site=self._codebook.site,
                    rename=self._rename,
                ),
            )

    def _rename(self, edit_id: str) -> str:
        return self._luggage.renamed.get(edit_id, edit_id)


def _header(codebook: CodebookRecord, revision: RevisionRecord, parameters: MethodParameters) -> BookHeader:
    return BookHeader(
        codebook=str(codebook.name),
        model=codebook.model,
        fingerprint=codebook.fingerprint,
        site=codebook.site,
        parameters=parameters,
        revision=revision.number,
        entries=revision.entry_count,
        exported_at=datetime.now(UTC),
    )


def _shared(parameters: MethodParameters) -> list[str]:
    """Return the artifacts that the parameters name, each once."""
    return list(dict.fromkeys(digest for digest in (parameters.space, parameters.background) if digest is not None))


def _require_match(codebook: CodebookRecord, header: BookHeader) -> None:
    """Refuse a file of another model, site or method.

    Raises
    ------
    FailedPrecondition
        ``import_mismatch``.
    """
    here, there = codebook.parameters.to_dict(), header.parameters.to_dict()
    differing = [name for name in ("fingerprint", "site") if getattr(codebook, name) != getattr(header, name)]
    differing += [name for name, value in here.items() if name != "threshold" and value != there[name]]
    if differing:
        shown = ", ".join(f"{name} ({_text(header, there, name)})" for name in differing)
        message = f"the file is of another kind than {codebook.name}; there it has: {shown}."
        raise FailedPrecondition(message, code="import_mismatch")


def _text(header: BookHeader, parameters: dict[str, object], name: str) -> str:
    text = str(parameters[name] if name in parameters else getattr(header, name))
    return text if len(text) <= 20 else f"{text[:17]}..."
