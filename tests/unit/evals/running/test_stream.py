"""A stream of edits: in order, each stored once, and what became of it."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.errors import FailedPrecondition, ResourceExhausted, Unavailable
from horen_vllm.evals.reporting.run_info import EditOutcome
from horen_vllm.evals.running.control import Submission
from horen_vllm.evals.running.stream import SUPERSEDED, Edit, EditStream

from .doubles import MemoryControl

BOOK = "eval-test-cosine"
EDITS = [Edit(prompt=f"Who leads {place}?", target=f"Person {place}") for place in range(8)]


class KilledError(Exception):
    """The process ends here."""


def stream(control: MemoryControl, edits: list[Edit] | None = None, *, patience_s: float = 60.0) -> EditStream:
    if BOOK not in control.books:
        control.create(BOOK, "cosine", None, request_id="create")
    return EditStream(control, BOOK, edits or EDITS, ids="run-1", patience_s=patience_s, poll_s=0.0)


def prompts(control: MemoryControl) -> list[str]:
    return [edit.prompt for edit in control.books[BOOK].edits]


def breaking_off(after: int, error: Exception | None = None) -> Callable[[], None]:
    left = iter(range(after))

    def submitted() -> None:
        if next(left, None) is None:
            raise error or KilledError

    return submitted


def test_edits_are_submitted_in_order_and_waited_for() -> None:
    control = MemoryControl()
    advance = stream(control).advance((), 5)
    assert prompts(control) == [edit.prompt for edit in EDITS[:5]]
    assert [outcome.position for outcome in advance.outcomes] == list(range(5))
    assert [outcome.edit_id for outcome in advance.outcomes] == ["e1", "e2", "e3", "e4", "e5"]
    assert all(outcome.failure is None and outcome.seconds == 0.5 for outcome in advance.outcomes)
    assert (advance.state.checkpoint, advance.state.entries, advance.resumed) == (5, 5, 0)


def test_the_next_advance_goes_on_behind_the_last() -> None:
    control = MemoryControl()
    first = stream(control).advance((), 3).outcomes
    second = stream(control).advance(first, 8)
    assert prompts(control) == [edit.prompt for edit in EDITS]
    assert [outcome.position for outcome in second.outcomes] == [3, 4, 5, 6, 7]


def test_failures_and_refusals_are_told_by_their_codes() -> None:
    control = MemoryControl()
    control.failing = {EDITS[1].prompt: "target_not_reached"}
    control.refused = {EDITS[2].prompt: "target_too_long"}
    outcomes = stream(control).advance((), 4).outcomes
    assert [outcome.failure for outcome in outcomes] == [None, "target_not_reached", "target_too_long", None]
    assert outcomes[2].edit_id is None
    assert outcomes[3].edit_id == "e3"


def test_an_edit_that_says_the_same_is_answered_by_the_first() -> None:
    edits = [EDITS[0], EDITS[0]]
    first, second = stream(MemoryControl(), edits).advance((), 2).outcomes
    assert (first.answered_by, second.answered_by) == (None, first.edit_id)
    assert second.failure is None


def test_an_edit_of_which_a_later_one_took_the_place_is_told_as_such() -> None:
    edits = [EDITS[0], Edit(prompt=EDITS[0].prompt, target="Somebody else")]
    outcomes = stream(MemoryControl(), edits).advance((), 2).outcomes
    assert [outcome.failure for outcome in outcomes] == [SUPERSEDED, None]


@settings(deadline=None)
@given(stops=st.lists(st.integers(1, 8), max_size=4), refused=st.sets(st.integers(0, 7), max_size=3))
def test_a_stream_that_is_broken_off_anywhere_stores_each_edit_once_and_in_order(
    stops: list[int], refused: set[int]
) -> None:
    control = MemoryControl()
    control.refused = {EDITS[place].prompt: "target_too_long" for place in refused}
    for stop in stops:
        control.on_submission = breaking_off(stop)
        # The next start knows nothing of what this one was told.
        with suppress(KilledError):
            stream(control).advance((), 8)
    control.on_submission = lambda: None
    advance = stream(control).advance((), 8)
    kept = [edit.prompt for place, edit in enumerate(EDITS) if place not in refused]
    assert prompts(control) == kept
    assert [outcome.failure is None for outcome in advance.outcomes] == [place not in refused for place in range(8)]
    assert advance.state.resumed == advance.resumed


def test_edits_of_somebody_else_are_no_part_of_a_run() -> None:
    control = MemoryControl()
    running = stream(control)
    list(control.submit(BOOK, [Submission(prompt="Other?", target="other", request_id="theirs")]))
    with pytest.raises(FailedPrecondition) as caught:
        running.advance((), 3)
    assert caught.value.code == "foreign_edits"
    assert "e1" in caught.value.message
    running.advance((), 3, others=["e1"])
    assert prompts(control) == ["Other?", *(edit.prompt for edit in EDITS[:3])]


def test_a_codebook_that_is_past_the_checkpoint_is_refused() -> None:
    control = MemoryControl()
    stream(control).advance((), 5)
    with pytest.raises(FailedPrecondition) as caught:
        stream(control).advance((), 3)
    assert caught.value.code == "foreign_edits"


def test_edits_that_never_move_end_the_waiting() -> None:
    control = MemoryControl()
    control.stuck = True
    with pytest.raises(Unavailable) as caught:
        stream(control, patience_s=0.0).advance((), 2)
    assert caught.value.code == "edits_stalled"
    assert "edit 1 " in caught.value.message


def test_a_codebook_that_no_server_takes_is_told_in_the_servers_words() -> None:
    control = MemoryControl()
    control.served, control.refusal = False, ("capacity_exhausted", "no room.")
    with pytest.raises(FailedPrecondition) as caught:
        stream(control).advance((), 2)
    assert caught.value.code == "capacity_exhausted"
    control.refusal = None
    with pytest.raises(Unavailable) as stalled:
        stream(control, patience_s=0.0).advance((), 2)
    assert "no server has its edits" in stalled.value.message


def test_a_codebook_that_was_deleted_meanwhile() -> None:
    control = MemoryControl()
    running = stream(control)
    del control.books[BOOK]
    with pytest.raises(FailedPrecondition) as caught:
        running.settle()
    assert caught.value.code == "codebook_gone"


def test_progress_grows_to_the_number_of_edits() -> None:
    control, told = MemoryControl(), list[tuple[int, int]]()
    control.create(BOOK, "cosine", None, request_id="create")
    running = EditStream(
        control, BOOK, EDITS, ids="run-1", poll_s=0.0, on_progress=lambda done, total: told.append((done, total))
    )
    running.advance((), 6)
    assert told[-1] == (6, 6)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) > 2


def test_outcomes_of_earlier_checkpoints_are_not_looked_for_again() -> None:
    control = MemoryControl()
    known = (EditOutcome(position=0, failure="target_too_long"),)
    stream(control).advance(known, 2)
    assert prompts(control) == [EDITS[1].prompt]


def test_a_control_plane_that_is_away_for_a_while_is_waited_for() -> None:
    control = MemoryControl()
    running, away = stream(control), iter(range(20))

    def flicker() -> None:
        if (turn := next(away, None)) is not None and turn % 3 == 1:
            raise Unavailable("restarting.")

    control.on_submission = control.on_look = flicker
    outcomes = running.advance((), 8).outcomes
    assert prompts(control) == [edit.prompt for edit in EDITS]
    assert [outcome.failure for outcome in outcomes] == [None] * 8


def test_a_control_plane_that_stays_away_ends_the_waiting() -> None:
    control = MemoryControl()
    running = stream(control, patience_s=0.0)
    control.on_submission = breaking_off(3, Unavailable("gone.", code="control_unavailable"))
    with pytest.raises(Unavailable) as caught:
        running.advance((), 8)
    assert caught.value.code == "control_unavailable"


def test_a_quota_that_time_lifts_is_waited_for_and_what_was_put_off_is_found_again() -> None:
    control = MemoryControl()
    turns = iter(range(100))

    def at_most_three() -> None:
        if next(turns) % 4 == 3:
            raise ResourceExhausted("too fast.", code="quota_exceeded", retry_after_s=1.0)

    control.on_submission = at_most_three
    assert [outcome.failure for outcome in stream(control).advance((), 8).outcomes] == [None] * 8
    # As if the fourth had been put off until the others were stored.
    edits = control.books[BOOK].edits
    edits.append(edits.pop(3))
    again = stream(control).advance((), 8)
    assert again.resumed == 8
    assert [outcome.edit_id for outcome in again.outcomes] == [f"e{number}" for number in range(1, 9)]


def test_a_quota_that_is_used_up_ends_the_stream() -> None:
    control = MemoryControl()
    control.on_submission = breaking_off(3, ResourceExhausted("no more.", code="quota_exceeded"))
    with pytest.raises(ResourceExhausted):
        stream(control).advance((), 8)
