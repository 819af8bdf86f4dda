"""A codebook's lane: updates that wait together are taken together, and come apart when they are refused."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horen_vllm.control.messages import CodebookView, DeltaView
from horen_vllm.errors import DataLoss
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EntryRef
from horen_vllm.serving.lane import Lane
from horen_vllm.serving.packing import PackedUpdate
from tests.unit.serving.live.world import FINGERPRINT, PARAMETERS, book

Entries = dict[str, int]


def view(revision: int, entries: int) -> CodebookView:
    return CodebookView(
        name=book("facts"),
        model="demo",
        fingerprint=FINGERPRINT,
        site="s",
        parameters=PARAMETERS,
        revision=revision,
        entry_count=entries,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def delta(revision: int, before: Entries, after: Entries, *, base: int | None = None) -> DeltaView:
    """Return how a codebook gets from one set of entries to another, as the control plane tells it."""
    return DeltaView(
        codebook=view(revision, len(after)),
        base=revision - 1 if base is None else base,
        revision=revision,
        added=tuple(
            EntryRef(edit_id=EditId(name), sequence=number, artifact=str(number))
            for name, number in after.items()
            if before.get(name) != number
        ),
        removed=tuple(EditId(name) for name, number in before.items() if after.get(name) != number),
    )


def applied(before: Entries, update: DeltaView) -> Entries:
    kept = {} if update.base == 0 else {name: at for name, at in before.items() if EditId(name) not in update.removed}
    return kept | {str(entry.edit_id): entry.sequence for entry in update.added}


def growing(count: int) -> list[DeltaView]:
    """Return updates from revision 1, which is empty, of one entry each."""
    states: list[Entries] = [{f"e{place}": place for place in range(number)} for number in range(count + 1)]
    return [delta(number + 2, states[number], states[number + 1]) for number in range(count)]


def lane_at(revision: int) -> Lane:
    lane = Lane(book("facts"))
    lane.state = replace(lane.state, applied=revision, latest=revision)
    return lane


def packed() -> PackedUpdate:
    return PackedUpdate(path=Path(), sha256="", probes=(), without_probe=0)


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)), min_size=3, max_size=5))
def test_two_updates_together_do_what_they_do_one_by_one(states: list[Entries]) -> None:
    first, *later = [delta(number + 2, before, after) for number, (before, after) in enumerate(pairwise(states))]
    for further in later:
        both = first.followed_by(further)
        if both is None:
            back = {entry.edit_id for entry in further.added}
            assert back & ({entry.edit_id for entry in first.added} | set(first.removed))
            return
        assert (both.base, both.revision, both.codebook) == (first.base, further.revision, further.codebook)
        assert applied(states[0], both) == applied(applied(states[0], first), further)
        assert {str(edit) for edit in both.removed} <= set(states[0])
        first = both


def test_an_update_that_starts_elsewhere_is_not_taken_with_another() -> None:
    first, _, third = growing(3)
    assert first.followed_by(third) is None
    whole = delta(9, {}, {"a": 1}, base=0)
    assert first.followed_by(whole) is whole


def test_updates_that_wait_are_taken_together() -> None:
    lane = lane_at(1)
    updates = growing(5)
    lane.heard(updates[0])
    assert lane.next_update() is updates[0]
    for update in updates[1:]:
        lane.heard(update)
    assert lane.flipped(updates[0], packed())
    together = lane.next_update()
    assert together is not None
    assert (together.base, together.revision, len(together.added)) == (2, 6, 4)
    assert lane.flipped(together, packed())
    assert (lane.state.applied, lane.next_update()) == (6, None)


def test_what_is_refused_together_is_tried_one_by_one_and_holds_back_no_earlier_one() -> None:
    lane = lane_at(1)
    updates = growing(3)
    for update in updates:
        lane.heard(update)
    together = lane.next_update()
    assert together is not None
    assert lane.split(together)
    for update in updates[:2]:
        assert lane.next_update() is update
        assert not lane.split(update)
        assert lane.flipped(update, packed())
    assert lane.next_update() is updates[2]
    assert not lane.split(updates[2])
    lane.refused(updates[2], DataLoss("broken.", code="artifact_corrupt"), 0.0)
    assert (lane.state.applied, lane.next_update()) == (3, None)
    assert lane.state.refused is not None
    assert lane.state.refused.revision == 4
    assert not lane.apart


def test_what_was_taken_before_a_restore_is_not_tried_again() -> None:
    lane = lane_at(1)
    for update in growing(2):
        lane.heard(update)
    together = lane.next_update()
    assert together is not None
    lane.forget()
    assert not lane.split(together)
    assert lane.next_update() is None


@pytest.mark.parametrize("apart", [False, True])
def test_a_lane_takes_together_again_after_its_queue_was_empty(*, apart: bool) -> None:
    lane = lane_at(1)
    lane.apart = apart
    assert lane.next_update() is None
    updates = growing(2)
    for update in updates:
        lane.heard(update)
    together = lane.next_update()
    assert together is not None
    assert together.revision == 3
