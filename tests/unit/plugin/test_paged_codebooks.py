"""Paged codebooks: the life cycle of revisions as a stateful property test against plain dictionaries."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from horen_vllm.artifact import EntryArtifact
from horen_vllm.core.presets import ValueMode
from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin.codebooks import RevisionView
from tests.unit.plugin.entries import D_IN, D_OUT, make_codebooks, make_entry, parameters, poison_free_rows, replace_all

KEYS, VALUES = 14, 12
NAMES = st.sampled_from(["a", "b"])
EDITS = st.sampled_from(["e1", "e2", "e3", "e4"])


def refusal(call: Callable[[], None]) -> str | None:
    """Return the code with which a call is refused; None when it is not."""
    try:
        call()
    except FailedPrecondition as error:
        return error.code
    return None


@dataclass
class Expected:
    """A revision as the model knows it: its number and its entries by edit id."""

    revision: int
    entries: dict[str, tuple[int, EntryArtifact]] = field(default_factory=dict)


class CodebooksMachine(RuleBasedStateMachine):
    """Publishes, drops, pins and unpins at random; free rows are poisoned with NaN after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.codebooks = make_codebooks(KEYS, VALUES)
        self.model: dict[str, Expected] = {}
        self.pinned: list[tuple[RevisionView, Expected]] = []
        self.made = 0

    @rule(
        name=NAMES,
        edits=st.dictionaries(EDITS, st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from(ValueMode))),
        removed=st.sets(EDITS),
        whole=st.booleans(),
    )
    def publish(self, name: str, edits: dict[str, tuple[int, int, ValueMode]], removed: set[str], whole: bool) -> None:
        added = [(self._next(), self._entry(edit_id, *shape)) for edit_id, shape in edits.items()]
        before = self.model.get(name)
        base = 0 if whole or before is None else before.revision
        kept = {} if base == 0 or before is None else before.entries
        entries = {edit_id: entry for edit_id, entry in kept.items() if edit_id not in removed}
        entries |= {artifact.manifest.edit_id: (sequence, artifact) for sequence, artifact in added}
        revision, free = self._next(), self._free()
        current = self.codebooks.current(name)
        update = partial(
            self.codebooks.apply,
            name,
            base_revision=base,
            revision=revision,
            parameters=parameters(),
            added=added,
            removed=sorted(removed),
        )
        refused = refusal(update)
        if refused is not None:
            assert refused == "capacity_exhausted"
            assert self._free() == free
            assert self.codebooks.current(name) is current
            return
        self.model[name] = Expected(revision, entries)

    @rule(name=NAMES, offset=st.integers(1, 3))
    def publish_from_a_revision_that_is_not_here(self, name: str, offset: int) -> None:
        at = self.model[name].revision if name in self.model else 0
        free, current = self._free(), self.codebooks.current(name)
        with pytest.raises(FailedPrecondition) as caught:
            self.codebooks.apply(
                name,
                base_revision=at + offset,
                revision=at + offset + 1,
                parameters=parameters(),
                added=[(1, make_entry("e1"))],
                removed=["e2"],
            )
        assert caught.value.code == "revision_gap"
        assert self._free() == free
        assert self.codebooks.current(name) is current

    @rule(name=NAMES)
    def drop(self, name: str) -> None:
        self.codebooks.drop(name)
        self.model.pop(name, None)

    @rule(name=NAMES)
    def pin(self, name: str) -> None:
        view = self.codebooks.pin(name)
        assert (view is None) == (name not in self.model)
        if view is not None:
            self.pinned.append((view, self.model[name]))

    @rule(name=NAMES)
    def empty_under_a_pin(self, name: str) -> None:
        self.pin(name)
        self.publish(name, {}, set(), whole=True)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.pinned) - 1))
        view, _ = self.pinned.pop(index)
        self.codebooks.unpin(view)

    @invariant()
    def every_live_view_reads_its_own_rows(self) -> None:
        poison_free_rows(self.codebooks)
        assert self.codebooks.applied() == {name: expected.revision for name, expected in self.model.items()}
        for name, expected in self.model.items():
            view = self.codebooks.current(name)
            assert view is not None
            self._check(view, expected)
        for view, expected in self.pinned:
            self._check(view, expected)

    @invariant()
    def rows_are_held_once_for_each_entry_that_is_alive(self) -> None:
        live = [*self.model.values(), *(expected for _, expected in self.pinned)]
        entries = {sequence: entry for expected in live for sequence, entry in expected.entries.values()}
        keys = sum(entry.keys.shape[0] for entry in entries.values())
        values = sum(entry.values.shape[0] for entry in entries.values())
        assert self._free() == (KEYS - keys, VALUES - values)

    def teardown(self) -> None:
        for view, _ in self.pinned:
            self.codebooks.unpin(view)
        for name in list(self.model):
            self.codebooks.drop(name)
        assert self._free() == (KEYS, VALUES)

    def _next(self) -> int:
        self.made += 1
        return self.made

    def _entry(self, edit_id: str, num_keys: int, span: int, mode: ValueMode) -> EntryArtifact:
        span = 1 if mode is ValueMode.LAST else span
        return make_entry(edit_id, seed=self._next(), num_keys=num_keys, span=span, mode=mode)

    def _free(self) -> tuple[int, int]:
        return self.codebooks._key_rows.num_free, self.codebooks._value_rows.num_free

    def _check(self, view: RevisionView, expected: Expected) -> None:
        assert view.revision == expected.revision
        ordered = sorted(expected.entries.values(), key=lambda pair: pair[0])
        table = self.codebooks.table(view)
        assert list(view.edit_ids) == [entry.manifest.edit_id for _, entry in ordered]
        assert table.sequences.tolist() == [sequence for sequence, _ in ordered]
        assert view.value_rows[-1] == view.sequences[-1] == -1
        assert view.spans[-1] == view.strides[-1] == 0
        for index, (_, entry) in enumerate(ordered):
            assert torch.equal(table.keys[table.owners == index], entry.keys)
            row, span, stride = (int(column[index]) for column in (view.value_rows, view.spans, view.strides))
            assert span == entry.manifest.span
            for offset in range(span):
                at = offset if entry.manifest.value_mode is ValueMode.SEQUENCE else 0
                assert torch.equal(self.codebooks.values[row + offset * stride], entry.values[at])


TestCodebooks = CodebooksMachine.TestCase
TestCodebooks.settings = settings(max_examples=150, stateful_step_count=25, deadline=None, derandomize=True)

WRONG_SHAPES: dict[str, dict[str, Any]] = {
    "keys of another width": {"keys": torch.ones(1, D_IN + 1)},
    "keys without rows": {"keys": torch.ones(0, D_IN)},
    "keys with one axis": {"keys": torch.ones(D_IN)},
    "values of another width": {"values": torch.ones(2, D_OUT + 1)},
    "fewer values than the span": {"values": torch.ones(1, D_OUT)},
    "no values": {"values": torch.ones(0, D_OUT)},
}


@pytest.mark.parametrize("wrong", WRONG_SHAPES.values(), ids=WRONG_SHAPES.keys())
def test_an_entry_that_does_not_fit_leaves_everything_as_it_was(wrong: dict[str, Any]) -> None:
    codebooks = make_codebooks()
    replace_all(codebooks, "a", 1, make_entry("old"))
    before, free = codebooks.current("a"), codebooks._key_rows.num_free
    with pytest.raises(FailedPrecondition) as caught:
        replace_all(codebooks, "a", 2, make_entry("good", seed=1), make_entry("bad", span=2, **wrong))
    assert caught.value.code == "wrong_shape"
    assert codebooks.current("a") is before
    assert codebooks._key_rows.num_free == free


def test_a_full_value_buffer_gives_the_keys_back() -> None:
    codebooks = make_codebooks(num_keys=8, num_values=3)
    with pytest.raises(FailedPrecondition) as caught:
        replace_all(codebooks, "a", 1, make_entry("e1", span=2), make_entry("e2", span=2))
    assert caught.value.code == "capacity_exhausted"
    assert (codebooks._key_rows.num_free, codebooks._value_rows.num_free) == (8, 3)


def test_an_unchanged_entry_keeps_its_rows_across_revisions() -> None:
    codebooks = make_codebooks()
    replace_all(codebooks, "a", 1, make_entry("stays"))
    first = codebooks.current("a")
    codebooks.apply(
        "a", base_revision=1, revision=2, parameters=parameters(), added=[(9, make_entry("new", seed=3))], removed=[]
    )
    second = codebooks.current("a")
    assert first is not None
    assert second is not None
    assert second.entries["stays"] is first.entries["stays"]


def test_a_pin_on_an_unknown_codebook_is_none() -> None:
    assert make_codebooks().pin("nobody") is None
