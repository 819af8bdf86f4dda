"""The editor's copies of the codebooks that it worked on last, brought up to date by what changed.

Knows the registry's port and the artifact store; does not decide anything.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch

from horen_vllm.artifact import EntryArtifact, KeyContext, decode_entry
from horen_vllm.artifacts.store import ArtifactStore
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.codebook.book import EditorCodebook, Entry
from horen_vllm.editor.codebook.subjects import SubjectField
from horen_vllm.editor.failure import surroundings
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.passes import context_means
from horen_vllm.editor.spoken import Reader
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import EntryRef
from horen_vllm.registry.ports import CodebookStore
from horen_vllm.spaces import decode_background, decode_space

_KEPT_BOOKS: Final = 4
"""Codebooks whose copies are kept; the one not used for longest goes first."""


class BookShelf:
    """Copies of a few codebooks, each at a revision of the registry.

    Parameters
    ----------
    store
        Says what changed.
    artifacts
        Where the files of entries, routing spaces and backgrounds are.
    editable
        The base model: reads contexts, and makes queries that no entry has.
    memory
        Bounds what it computes at once.
    """

    def __init__(
        self, store: CodebookStore, artifacts: ArtifactStore, editable: EditableModel, memory: MemoryLimit
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._editable = editable
        self._memory = memory
        self._books: dict[CodebookName, EditorCodebook] = {}

    def current(self, name: CodebookName) -> EditorCodebook:
        """Return the copy of a codebook at its current revision; costs what changed since it was last asked for.

        Whoever adds entries of his own to it publishes all of them, or drops the copy.

        Raises
        ------
        Unavailable
            When the registry does not answer; ``editor_surroundings``, when the codebook or one of its files cannot be
            read. Reading a file again for the copy (`EditorCodebook.entry`) raises the same.
        FailedPrecondition
            ``fingerprint_mismatch``, when its routing space was fitted on another model.
        """
        # Away while it changes: an update that fails half-way must not leave a copy that no revision equals.
        book = self._books.pop(name, None)
        with surroundings(f"reading codebook {name}"):
            delta = self._store.delta(name, 0 if book is None else book.revision)
            parameters = delta.codebook.parameters
            if book is None:
                book = self._new(parameters)
            book.update(delta.revision, self._entries(delta.added), delta.removed, parameters.threshold)
        self._books[name] = book
        while len(self._books) > _KEPT_BOOKS:
            del self._books[next(iter(self._books))]
        return book

    def drop(self, name: CodebookName) -> None:
        """Forget the copy of a codebook: it is read anew when it is asked for again."""
        self._books.pop(name, None)

    def _new(self, parameters: MethodParameters) -> EditorCodebook:
        fingerprint = self._editable.fingerprint
        space = background = None
        if parameters.space is not None:
            space = decode_space(self._artifacts.read(parameters.space), fingerprint)
        if parameters.background is not None:
            background = decode_background(self._artifacts.read(parameters.background), fingerprint)
        keying = Keying(parameters, space)
        return EditorCodebook(
            keying,
            keying.width(self._editable.d_in),
            self._read,
            background=background,
            subjects=self._subjects(keying) if parameters.anchors else None,
        )

    def _subjects(self, keying: Keying) -> SubjectField:
        def ask(contexts: Sequence[KeyContext], words: Sequence[Sequence[str]]) -> torch.Tensor:
            found = context_means(self._editable, contexts, keying.parameters, self._memory)
            return keying.queries(found, words)

        return SubjectField(keying.parameters, Reader(self._editable.tokenizer, keying), ask)

    def _entries(self, refs: Sequence[EntryRef]) -> Iterator[Entry]:
        files = self._artifacts.read_many(ref.artifact for ref in refs)
        for ref in refs:
            with surroundings(f"reading the entry of edit {ref.edit_id}"):
                artifact = decode_entry(next(files))
            yield Entry(ref, artifact)

    def _read(self, ref: EntryRef) -> EntryArtifact:
        with surroundings(f"reading the entry of edit {ref.edit_id}"):
            return decode_entry(self._artifacts.read(ref.artifact))
