"""The editor's copies of the codebooks that it worked on last, brought up to date by what changed.

Knows the registry's port and the artifact folder; does not decide anything.
"""

from typing import Final

from horen_vllm.artifact import ArtifactFolder, EntryArtifact, decode_entry
from horen_vllm.editor.codebook.book import EditorCodebook, Entry
from horen_vllm.editor.failure import surroundings
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import EntryRef
from horen_vllm.registry.ports import CodebookStore

_KEPT_BOOKS: Final = 4
"""Codebooks whose copies are kept; the one not used for longest goes first."""


class BookShelf:
    """Copies of a few codebooks, each at a revision of the registry.

    Parameters
    ----------
    store
        Says what changed.
    artifacts
        Where the entries' files are.
    d_in
        Width of a key.
    """

    def __init__(self, store: CodebookStore, artifacts: ArtifactFolder, d_in: int) -> None:
        self._store = store
        self._artifacts = artifacts
        self._d_in = d_in
        self._books: dict[CodebookName, EditorCodebook] = {}

    def current(self, name: CodebookName) -> EditorCodebook:
        """Return the copy of a codebook at its current revision; costs what changed since it was last asked for.

        Whoever adds entries of his own to it publishes all of them, or drops the copy.

        Raises
        ------
        Unavailable
            When the registry does not answer; ``editor_surroundings``, when the codebook or one of its files cannot be
            read. Reading a file again for the copy (`EditorCodebook.entry`) raises the same.
        """
        # Away while it changes: an update that fails half-way must not leave a copy that no revision equals.
        book = self._books.pop(name, None)
        with surroundings(f"reading codebook {name}"):
            delta = self._store.delta(name, 0 if book is None else book.revision)
            if book is None:
                book = EditorCodebook(delta.codebook.parameters, self._d_in, self._read)
            book.update(delta.revision, (Entry(ref, self._read(ref)) for ref in delta.added), delta.removed)
        self._books[name] = book
        while len(self._books) > _KEPT_BOOKS:
            del self._books[next(iter(self._books))]
        return book

    def drop(self, name: CodebookName) -> None:
        """Forget the copy of a codebook: it is read anew when it is asked for again."""
        self._books.pop(name, None)

    def _read(self, ref: EntryRef) -> EntryArtifact:
        with surroundings(f"reading the entry of edit {ref.edit_id}"):
            return decode_entry(self._artifacts.read(ref.artifact))
