"""Paged codebooks: the life of revisions as a stateful property test against plain dictionaries."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from horen_vllm.core.presets import ValueMode
from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin.codebooks import Update
from horen_vllm.plugin.revisions import RevisionView
from tests.unit.plugin.codebook_model import Expected, check_view, rows_needed
from tests.unit.plugin.entries import (
    Numbered,
    make_codebooks,
    make_entry,
    unowned_rows_are_poison,
    update_of,
    used_rows,
)

KEYS, VALUES = 16, 14
NAMES = st.sampled_from(["a", "b"])
IDS = ["e1", "e2", "e3", "e4"]
SHAPES = st.tuples(
    st.integers(1, 3), st.integers(1, 4), st.sampled_from(ValueMode), st.integers(1, 2), st.integers(0, 1)
)
EDITS = st.dictionaries(st.sampled_from(IDS), SHAPES, max_size=3)


class CodebooksMachine(RuleBasedStateMachine):
    """Stages, flips, abandons, reloads, drops, pins and unpins at random; rows that nobody has hold NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.codebooks = make_codebooks(KEYS, VALUES)
        self.applied: dict[str, Expected] = {}
        self.pinned: list[tuple[RevisionView, Expected]] = []
        self.staged: list[tuple[RevisionView, Expected, int]] = []
        self.past: dict[str, list[Expected]] = {"a": [], "b": []}
        self.made = 0

    @rule(name=NAMES, edits=EDITS, removed=st.sets(st.sampled_from(IDS)), whole=st.booleans())
    def stage(self, name: str, edits: dict[str, Any], removed: set[str], whole: bool) -> None:
        """Prepare an update, from the applied revision or from nothing; removed ids may come back in it."""
        added = [self._entry(edit_id, *shape) for edit_id, shape in edits.items()]
        before = self.applied.get(name)
        base = Expected(0) if whole or before is None else before
        expected = base.after(self._next(), added, removed)
        self._prepare(name, expected, update_of(name, expected.revision, added, base=base.revision, removed=[*removed]))

    @rule(name=NAMES, data=st.data())
    def reload(self, name: str, data: st.DataObject) -> None:
        """Prepare an earlier revision, or the applied one, as a whole: a rollback, or an agent's new start."""
        if self.past[name]:
            old = data.draw(st.sampled_from(self.past[name]))
            expected = Expected(old.revision, dict(old.entries))
            self._prepare(name, expected, update_of(name, old.revision, list(old.entries.values())))

    @precondition(lambda self: self.staged)
    @rule(data=st.data())
    def flip(self, data: st.DataObject) -> None:
        """Make a prepared revision current; refused when its base has moved meanwhile."""
        view, expected, base = self.staged.pop(data.draw(st.integers(0, len(self.staged) - 1)))
        before = self.applied.get(view.codebook)
        if base and (before is None or before.revision != base):
            with pytest.raises(FailedPrecondition) as caught:
                self.codebooks.flip(view, base)
            assert caught.value.code == "revision_gap"
            self.codebooks.free(view)
            return
        self.codebooks.flip(view, base)
        self.applied[view.codebook] = expected
        self.past[view.codebook].append(expected)

    @precondition(lambda self: self.staged)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        """Give a prepared revision back."""
        self.codebooks.free(self.staged.pop(data.draw(st.integers(0, len(self.staged) - 1)))[0])

    @rule(name=NAMES, offset=st.integers(1, 3))
    def stage_from_a_revision_that_is_not_here(self, name: str, offset: int) -> None:
        at = self.applied[name].revision if name in self.applied else 0
        update = update_of(name, at + offset + 1, [self._entry("e1", 1, 1, ValueMode.LAST, 1, 0)], base=at + offset)
        assert self._attempt(update) == "revision_gap"

    @rule(name=NAMES)
    def drop(self, name: str) -> None:
        self.codebooks.drop(name)
        self.applied.pop(name, None)

    @rule(name=NAMES)
    def pin(self, name: str) -> None:
        view = self.codebooks.pin(name)
        assert (view is None) == (name not in self.applied)
        if view is not None:
            self.pinned.append((view, self.applied[name]))

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        self.codebooks.unpin(self.pinned.pop(data.draw(st.integers(0, len(self.pinned) - 1)))[0])

    @invariant()
    def every_live_view_reads_its_own_rows(self) -> None:
        current = self.codebooks.applied()
        assert current.keys() == self.applied.keys()
        for name, expected in self.applied.items():
            assert current[name] is self.codebooks.current(name)
            check_view(self.codebooks, current[name], expected)
        for view, expected in self.pinned:
            check_view(self.codebooks, view, expected)
        for view, expected, _ in self.staged:
            check_view(self.codebooks, view, expected)

    @invariant()
    def rows_belong_to_live_revisions_and_to_nobody_else(self) -> None:
        assert unowned_rows_are_poison(self.codebooks.store)
        least, used = rows_needed(self._live()), used_rows(self.codebooks.store)
        # A reload of what is only pinned or staged may write an entry a second time.
        assert least[0] <= used[0] <= KEYS
        assert least[1] <= used[1] <= VALUES
        assert used == self._owned()

    def teardown(self) -> None:
        for view, _ in self.pinned:
            self.codebooks.unpin(view)
        for view, _, _ in self.staged:
            self.codebooks.free(view)
        for name in list(self.applied):
            self.codebooks.drop(name)
        assert used_rows(self.codebooks.store) == (0, 0)

    def _prepare(self, name: str, expected: Expected, update: Update) -> None:
        current, prepared = self.codebooks.current(name), self._attempt(update)
        if isinstance(prepared, RevisionView):
            self.staged.append((prepared, expected, update.base_revision))
        else:
            assert prepared == "capacity_exhausted"
        assert self.codebooks.current(name) is current

    def _attempt(self, update: Update) -> RevisionView | str:
        """Return what was prepared, or the code with which it was refused, having checked that nothing was kept."""
        used = used_rows(self.codebooks.store)
        try:
            return self.codebooks.prepare(update)
        except FailedPrecondition as error:
            code = error.code
        assert used_rows(self.codebooks.store) == used
        return code

    def _live(self) -> list[Expected]:
        return [*self.applied.values(), *(row[1] for row in self.pinned), *(row[1] for row in self.staged)]

    def _owned(self) -> tuple[int, int]:
        views = [*self.codebooks.applied().values(), *(row[0] for row in self.pinned), *(row[0] for row in self.staged)]
        entries = {id(entry): entry.row for view in views for entry in view.entries.values()}.values()
        return sum(row.keys for row in entries), sum(row.values for row in entries)

    def _next(self) -> int:
        self.made += 1
        return self.made

    def _entry(self, edit_id: str, num_keys: int, span: int, mode: ValueMode, chunk: int, rank: int) -> Numbered:
        number, span = self._next(), 1 if mode is ValueMode.LAST else span
        shape: dict[str, Any] = {"num_keys": num_keys, "span": span, "mode": mode, "chunk": chunk, "rank": rank}
        return number, make_entry(edit_id, seed=number, **shape)


TestCodebooks = CodebooksMachine.TestCase
TestCodebooks.settings = settings(max_examples=20, stateful_step_count=25, deadline=None, derandomize=True)
