"""Codebooks of one rank: the applied revision of each, the revisions that live requests pin, and moving between them.

A revision is prepared beside the engine's steps and becomes current between two of them by changing one pointer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from horen_vllm.core.match import KeyTable
from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import FailedPrecondition
from horen_vllm.kernels import dispatch
from horen_vllm.pack import EntryPack
from horen_vllm.plugin.breath import breathing
from horen_vllm.plugin.entries import EntryStore, KeyLayout, ResidentEntry
from horen_vllm.plugin.revisions import KeyGroup, RevisionView, build_view
from horen_vllm.plugin.row_writer import RowWriter
from horen_vllm.plugin.space_shelf import ResidentSpace
from horen_vllm.plugin.texts import PromptTexts, no_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A codebook's way from one revision to another; `base_revision` 0 replaces everything."""

    codebook: str
    base_revision: int
    revision: int
    parameters: MethodParameters
    added: EntryPack
    removed: Sequence[str] = ()


class PagedCodebooks:
    """All codebooks of one rank.

    Parameters
    ----------
    store
        Where their entries stand.
    release
        Called with a revision that nobody needs any more; must end in `free`, on whatever thread.
    texts
        The words of prompts.
    subject_ranges
        Ranges of a prompt's tokens that can be summed apart, for subjects that a query leaves out.
    """

    def __init__(
        self,
        store: EntryStore,
        release: Callable[[RevisionView], None] | None = None,
        *,
        texts: PromptTexts | None = None,
        subject_ranges: int = 0,
    ) -> None:
        self.store = store
        self.release = release or self.free
        self.texts = texts or no_texts()
        self.subject_ranges = subject_ranges
        self._current: dict[str, RevisionView] = {}
        self._warm = {store.d_in}

    def current(self, codebook: str) -> RevisionView | None:
        """Return the applied revision of a codebook; None when the codebook is not here."""
        return self._current.get(codebook)

    def applied(self) -> dict[str, RevisionView]:
        """Return the applied revision of every codebook."""
        return dict(self._current)

    def pin(self, codebook: str) -> RevisionView | None:
        """Return the applied revision and keep it until `unpin`; None when the codebook is not here."""
        view = self._current.get(codebook)
        if view is not None:
            view.pins += 1
        return view

    def unpin(self, view: RevisionView) -> None:
        """Give one pin back; the last one releases a revision that is no longer current."""
        view.pins -= 1
        if view.pins == 0 and self._current.get(view.codebook) is not view:
            self.release(view)

    def prepare(self, update: Update) -> RevisionView:
        """Write an update's entries into free rows and return the revision, not yet current. May run on any thread.

        Raises
        ------
        FailedPrecondition
            ``revision_gap`` when the codebook is not at the base revision; ``space_missing`` when its routing space
            is neither here nor in the update; ``capacity_exhausted`` when the buffers are full; ``wrong_shape`` when
            an entry or the space does not fit this model; ``unsupported_engine_mode`` or ``unsupported_tokenizer``
            when this engine cannot route by the codebook's parameters. Nothing is kept then.
        """
        self._check_base(update.codebook, update.base_revision)
        check_engine(update.parameters, self.store.ranks, self.subject_ranges)
        before = self._current.get(update.codebook)
        if before is not None and update.base_revision:
            _check_same_space(before.parameters, update.parameters)
        space = self._held_space(update)
        try:
            return self._prepared(update, space, before.entries if before is not None else {})
        except BaseException:
            if space is not None:
                self.store.spaces.release(space)
            raise

    def flip(self, view: RevisionView, base_revision: int) -> None:
        """Make a prepared revision current; FailedPrecondition ``revision_gap`` when its base no longer is."""
        self._check_base(view.codebook, base_revision)
        before = self._current.get(view.codebook)
        self._current[view.codebook] = view
        if before is not None and before.pins == 0:
            self.release(before)

    def drop(self, codebook: str) -> None:
        """Forget a codebook; its revision is released once no request pins it."""
        view = self._current.pop(codebook, None)
        if view is not None and view.pins == 0:
            self.release(view)

    def free(self, view: RevisionView) -> None:
        """Give back the rows of a revision's entries, and its space, that no other has. May run on any thread."""
        self.store.release(breathing(view.entries.values()))
        if view.space is not None:
            self.store.spaces.release(view.space)

    def keys(self, view: RevisionView) -> torch.Tensor:
        """Return the key buffer as rows of the revision's keys."""
        return self.store.key_rows(view.layout.width)

    def table(self, view: RevisionView, group: KeyGroup, sequences: torch.Tensor) -> KeyTable:
        """Return keys as the matcher takes them, gathered from their rows where they must be."""
        rows, start = self.keys(view), group.run_start
        keys = rows[group.rows] if start is None else rows[start : start + len(group)]
        return KeyTable(keys, group.owners, sequences)

    def _check_base(self, codebook: str, base_revision: int) -> None:
        before = self._current.get(codebook)
        if base_revision and (before is None or before.revision != base_revision):
            at = before.revision if before else "nothing"
            message = f"{codebook} is at {at}; the update starts from revision {base_revision}."
            raise FailedPrecondition(message, code="revision_gap")

    def _held_space(self, update: Update) -> ResidentSpace | None:
        digest = update.parameters.space
        return None if digest is None else self.store.spaces.hold(digest, update.added.space)

    def _prepared(
        self, update: Update, space: ResidentSpace | None, resident: Mapping[str, ResidentEntry]
    ) -> RevisionView:
        layout = self.store.layout(update.parameters, space.space if space is not None else None)
        self.store.check_widths(update.added, layout)
        held: list[ResidentEntry] = []
        try:
            for entry in self._entries(update, resident, layout):
                self.store.retain(entry)
                held.append(entry)
            view = build_view(
                update.codebook,
                update.revision,
                update.parameters,
                # In one order however the revision came about: a sum's last bits depend on where its keys stand.
                {entry.row.edit_id: entry for entry in breathing(sorted(held, key=lambda entry: entry.row.sequence))},
                self.store.keys.device,
                layout=layout,
                space=space,
            )
            if view.needs_text:
                self.texts.prepare()
            self._warm_up(layout.width)
        except BaseException:
            self.store.release(held)
            raise
        return view

    def _warm_up(self, width: int) -> None:
        """Compile the route kernels for keys of this width, so that no request waits for it; nothing on a CPU."""
        keys = self.store.key_rows(width)
        if keys.is_cuda and width not in self._warm:
            dispatch.warm_up_route(keys)
            self._warm.add(width)

    def _entries(
        self, update: Update, resident: Mapping[str, ResidentEntry], layout: KeyLayout
    ) -> Iterator[ResidentEntry]:
        """Yield the entries of the new revision, each once: what stays, then what is added."""
        replaced = {row.edit_id for row in breathing(update.added.rows)}.union(update.removed)
        if update.base_revision:
            yield from (entry for edit_id, entry in breathing(resident.items()) if edit_id not in replaced)
        keys, values, key, value = RowWriter(update.added.keys), RowWriter(update.added.values), 0, 0
        for row in breathing(update.added.rows):
            entry = resident.get(row.edit_id)
            # A full reload finds most entries where they are: equal files are equal entries.
            if entry is None or entry.row != row or entry.key_width != layout.width:
                entry = self.store.place(row, layout)
                keys.add(key, entry.key_row, row.keys)
                values.add(value, entry.value_row, row.values)
            yield entry
            key, value = key + row.keys, value + row.values
        self.store.write(keys, values, layout)


def check_engine(parameters: MethodParameters, ranks: int, subject_ranges: int) -> None:
    """Refuse parameters that this engine cannot route by (FailedPrecondition ``unsupported_engine_mode``)."""
    if parameters.radius is not None and ranks > 1:
        message = "codebooks with radii (GRACE) are not served with tensor parallelism: no rank has a whole key."
        raise FailedPrecondition(message, code="unsupported_engine_mode")
    if parameters.mask_subject and subject_ranges == 0:
        message = "codebooks with masked subjects need an engine with additional_config.horen.subject_ranges > 0."
        raise FailedPrecondition(message, code="unsupported_engine_mode")


def _check_same_space(before: MethodParameters, after: MethodParameters) -> None:
    # Entries that stay have keys of the space before, whatever else has that one's width.
    if (before.space, before.radius is None) != (after.space, after.radius is None):
        message = "the update changes the routing space, so it has to bring all entries."
        raise FailedPrecondition(message, code="space_missing")
