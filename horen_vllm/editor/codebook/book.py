"""The editor's copy of a codebook: what routing and admission need of each entry, at one revision.

Knows artifacts and keys; does not know the registry's store, the model or how values are trained.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from horen_vllm.artifact import EntryArtifact, KeyContext
from horen_vllm.core.admission import Existing
from horen_vllm.editor.codebook.arena import NOBODY, KeyArena
from horen_vllm.editor.codebook.balls import Splits
from horen_vllm.editor.codebook.context_names import context_name
from horen_vllm.editor.codebook.false_fires import false_fires_of
from horen_vllm.editor.codebook.subjects import SubjectField
from horen_vllm.editor.keying import Keying
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EntryRef


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a revision with its tensors."""

    ref: EntryRef
    artifact: EntryArtifact

    def as_existing(self) -> Existing:
        """Return what admission compares a new edit with."""
        manifest = self.artifact.manifest
        return Existing(self.ref.edit_id, self.ref.sequence, manifest.normalised_prompt, tuple(manifest.target_ids))


Load = Callable[[EntryRef], EntryArtifact]
"""Reads the artifact of an entry again."""


@dataclass(slots=True)
class _Held:
    """What is kept of one entry: what routing and admission need."""

    ref: EntryRef
    rows: tuple[int, ...]
    """Arena row of each of its keys, in order."""
    contexts: tuple[bytes, ...]
    """Name of the context of each key; empty where the artifact does not say."""


class EditorCodebook:
    """The editor's copy of one codebook, which grows by an entry at a cost that does not depend on its size.

    Every key is kept once, in the arena. Values and manifests are not kept, but read again when they are asked for
    (an alias reuses a value; a context is looked at again): at 50,000 entries of six vectors of width 4096 the
    values alone would be 4.9 GB. Only entries that `add` brought are kept whole until the next `update`, so that a
    batch can use them before their files are stored.

    Parameters
    ----------
    keying
        How the codebook makes queries.
    width
        Width of its keys.
    load
        Reads an entry's artifact; called by `entry` and `context`, and its errors are theirs.
    background
        [B, width] queries that the threshold follows; None: it is fixed.
    subjects
        Takes the entries with anchors; None where the codebook has no anchors.
    """

    def __init__(
        self,
        keying: Keying,
        width: int,
        load: Load,
        *,
        background: torch.Tensor | None = None,
        subjects: SubjectField | None = None,
    ) -> None:
        self.keying = keying
        self.parameters = parameters = keying.parameters
        self.arena = KeyArena(width)
        """The keys of the entries without anchors."""
        self.subjects = subjects
        self.false_fires = None
        if background is not None and parameters.false_fire_rate is not None:
            self.false_fires = false_fires_of(background, parameters, self.arena)
        self._load = load
        self.floors: dict[int, float] = {}
        """Scores up to which entries without anchors do not fire, by sequence number."""
        self.balls: dict[int, tuple[float, Splits]] = {}
        """Radius of each entry of a GRACE codebook, and the radii that it cuts, by sequence number."""
        self._revision = 0
        self._held: dict[int, _Held] = {}
        self._existing: dict[int, Existing] = {}
        self._sequences: dict[EditId, int] = {}
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._contexts: dict[bytes, int] = {}
        self._fresh: dict[EditId, Entry] = {}

    @property
    def revision(self) -> int:
        """Revision that the copy stands at; 0 before the first `update`."""
        return self._revision

    @property
    def entries(self) -> int:
        """Number of entries."""
        return len(self._held)

    @property
    def existing(self) -> Mapping[int, Existing]:
        """What admission needs to know of each entry, by sequence number."""
        return self._existing

    def __contains__(self, edit_id: object) -> bool:
        return edit_id in self._sequences

    def same_prompt(self, normalised_prompt: str) -> tuple[int, ...]:
        """Return the sequence numbers of the entries with this prompt, ascending."""
        return self._prompts.get(normalised_prompt, ())

    def edit_id(self, sequence: int) -> EditId:
        """Return the edit that made an entry."""
        return self._held[sequence].ref.edit_id

    def rows(self, sequence: int) -> tuple[int, ...]:
        """Return the arena rows of an entry's keys, in order; none for one with anchors."""
        return self._held[sequence].rows

    def entry(self, edit_id: EditId) -> Entry:
        """Return an entry with its tensors.

        Raises
        ------
        KeyError
            When the edit has no entry here.
        """
        ref = self._held[self._sequences[edit_id]].ref
        return self._fresh.get(edit_id) or Entry(ref, self._load(ref))

    def holds(self, sequence: int, contexts: Iterable[bytes]) -> bool:
        """Return whether an entry has keys for all these contexts (`context_name`); True if it does not say."""
        held = self._held[sequence].contexts
        return not held or set(contexts) <= set(held)

    def context(self, sequence: int, row: int) -> KeyContext | None:
        """Return where an entry's key came from; None for an artifact that does not say."""
        held = self._held[sequence]
        if not held.contexts:
            return None
        return self.entry(held.ref.edit_id).artifact.manifest.contexts[held.rows.index(row)]

    def key_of(self, context: KeyContext, _words: Sequence[str] = ()) -> torch.Tensor | None:
        """Return the key [width] that the newest entry with this very context has; None if none says it has it.

        Of the entries without anchors: all words of the context have a part in it.
        """
        row = self._contexts.get(context_name(context))
        return None if row is None else self.arena.keys[row]

    def anchored_key_of(self, context: KeyContext, words: Sequence[str]) -> torch.Tensor | None:
        """Return the same of the entries with anchors, where these words of the context are left."""
        return None if self.subjects is None else self.subjects.key_of(context, words)

    def update(
        self,
        revision: int,
        added: Iterable[Entry],
        removed: Iterable[EditId],
        threshold: float | None = None,
    ) -> None:
        """Apply a registry delta, and the threshold of its revision (None: as it was).

        Entries that are there already, and removals of what is not, change nothing.

        Call it when every entry that `add` brought has its file stored. A large delta may be given in parts, and
        `added` may be a generator, so that not all artifacts are in memory at once.

        Raises
        ------
        FailedPrecondition
            ``wrong_shape``, as `KeyArena.hold`.
        """
        for edit_id in removed:
            if edit_id in self._sequences:
                self._remove(self._sequences[edit_id])
        for entry in added:
            self._put(entry)
        self._fresh.clear()
        if self.arena.sparse:
            self._compact()
        self._set_threshold(threshold)
        self._revision = revision

    def add(self, entry: Entry, supersedes: Iterable[EditId] = (), threshold: float | None = None) -> None:
        """Make the next revision: with a new entry, without those that it replaces, at a threshold (None: as it was).

        Raises
        ------
        FailedPrecondition
            ``wrong_shape``, as `KeyArena.hold`.
        """
        for edit_id in supersedes:
            self._remove(self._sequences[edit_id])
        self._put(entry)
        self._fresh[entry.ref.edit_id] = entry
        self._set_threshold(threshold)
        self._revision += 1

    def _set_threshold(self, threshold: float | None) -> None:
        if threshold is not None:
            self.parameters = replace(self.parameters, threshold=threshold)

    def _put(self, entry: Entry) -> None:
        ref, artifact = entry.ref, entry.artifact
        if ref.edit_id in self._sequences:
            if self._held[self._sequences[ref.edit_id]].ref == ref:
                return
            self._remove(self._sequences[ref.edit_id])
        names = tuple(map(context_name, artifact.manifest.contexts))
        rows = self._hold(ref.sequence, artifact)
        self._held[ref.sequence] = _Held(ref, rows, names)
        self._sequences[ref.edit_id] = ref.sequence
        self._existing[ref.sequence] = existing = entry.as_existing()
        others = self.same_prompt(existing.normalised_prompt)
        self._prompts[existing.normalised_prompt] = tuple(sorted((*others, ref.sequence)))
        for name, row in zip(names, rows, strict=bool(names and rows)):
            known = self._contexts.setdefault(name, row)
            if self.arena.owners[known] <= ref.sequence:
                self._contexts[name] = row

    def _hold(self, sequence: int, artifact: EntryArtifact) -> tuple[int, ...]:
        """Put an entry's keys where they compete; return their rows in the arena, if that is there."""
        if self.subjects is not None and self.subjects.add(sequence, artifact):
            return ()
        if artifact.manifest.radius is not None:
            self.balls[sequence] = artifact.manifest.radius, artifact.manifest.splits
        if artifact.manifest.floor is not None:
            self.floors[sequence] = artifact.manifest.floor
        rows = self.arena.hold(artifact.keys, sequence)
        if self.false_fires is not None:
            self.false_fires.hold(rows)
        return rows

    def _remove(self, sequence: int) -> None:
        held, existing = self._held.pop(sequence), self._existing.pop(sequence)
        del self._sequences[held.ref.edit_id]
        self._fresh.pop(held.ref.edit_id, None)
        others = tuple(other for other in self._prompts.pop(existing.normalised_prompt) if other != sequence)
        if others:
            self._prompts[existing.normalised_prompt] = others
        if self.subjects is not None:
            self.subjects.remove(sequence)
        self.floors.pop(sequence, None)
        self.balls.pop(sequence, None)
        self.arena.release(held.rows, sequence)
        if self.false_fires is not None:
            self.false_fires.release(held.rows)
        for name in held.contexts:
            row = self._contexts.get(name)
            if row is not None and self.arena.owners[row] == NOBODY:
                del self._contexts[name]

    def _compact(self) -> None:
        moved = self.arena.compact()
        if self.false_fires is not None:
            self.false_fires.move(moved)
        # The last holder of a row may not say what its contexts are, so a name can outlive its row until here.
        self._contexts = {name: moved[row] for name, row in self._contexts.items() if moved[row] != NOBODY}
        for held in self._held.values():
            held.rows = tuple(moved[row] for row in held.rows)
