"""The staging thread: what it does in which order, and every way in which a staged update can end."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from horen_vllm.artifact import EntryArtifact
from horen_vllm.errors import HorenError
from horen_vllm.pack import PackRow
from horen_vllm.plugin.codebooks import PagedCodebooks, Update
from horen_vllm.plugin.entries import EntryStore, KeyLayout, ResidentEntry
from horen_vllm.plugin.staging import Stager, StageState
from tests.unit.plugin.codebook_model import Expected, check_view
from tests.unit.plugin.entries import D_IN, D_OUT, make_entry, unowned_rows_are_poison, update_of, used_rows


class Gate:
    """A place where the staging thread waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(10)


class GatedStore(EntryStore):
    """A store that waits at a gate before it gives out rows."""

    gate: Callable[[], None] | None = None

    def place(self, row: PackRow, layout: KeyLayout) -> ResidentEntry:
        if self.gate is not None:
            self.gate()
        return super().place(row, layout)


class Bench:
    """Codebooks with room for three small entries, and their stager."""

    def __init__(self) -> None:
        self.store = GatedStore(
            d_in=D_IN,
            d_out=D_OUT,
            key_numbers=3 * D_IN,
            num_values=6,
            dtype=torch.float32,
            device=torch.device("cpu"),
            poison=True,
        )
        self.codebooks = PagedCodebooks(self.store)
        self.stager = Stager(self.codebooks)
        self.gates: list[Gate] = []

    def settle(self) -> None:
        """Wait until the staging thread has done all that it was given so far."""
        done = threading.Event()
        self.stager._enqueue(done.set)
        assert done.wait(10)

    def gate(self) -> Gate:
        self.gates.append(Gate())
        return self.gates[-1]

    def hold(self, ticket: str = "hold") -> Gate:
        """Keep the staging thread busy with another update's file."""
        gate = self.gate()

        def load() -> Update:
            gate()
            return update_of("other", 1)

        self.stager.stage(ticket, 0, load)
        assert gate.reached.wait(10)
        return gate

    def stage(self, ticket: str, update: Update) -> None:
        self.stager.stage(ticket, update.base_revision, lambda: update)

    def serve(self, revision: int, *entries: EntryArtifact) -> None:
        """Stage a whole revision of codebook "a" and make it current."""
        self.stage("first", update_of("a", revision, list(enumerate(entries, start=1))))
        self.settle()
        self.stager.flip("first", self.stager.sequence + 1)
        self.settle()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for gate in bench.gates:
        gate.opened.set()
    bench.settle()
    assert unowned_rows_are_poison(bench.store)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(HorenError) as caught:
        call()
    return caught.value.code


def test_an_update_is_staged_aside_and_served_after_its_flip(bench: Bench) -> None:
    entry = make_entry("e")
    gate = bench.hold()
    bench.stage("t", update_of("a", 4, [(1, entry)]))
    assert bench.stager.staged("t").state is StageState.STAGING
    assert refusal(lambda: bench.stager.flip("t", 1)) == "not_staged"
    gate.opened.set()
    bench.settle()
    assert bench.stager.staged("t").state is StageState.STAGED
    assert bench.codebooks.current("a") is None
    view = bench.stager.flip("t", 1)
    assert bench.codebooks.current("a") is view
    check_view(bench.codebooks, view, Expected(4, {"e": (1, entry)}))
    assert refusal(lambda: bench.stager.staged("t")) == "unknown_ticket"


def test_rows_of_a_revision_that_is_left_are_free_before_the_next_update_looks_for_room(bench: Bench) -> None:
    bench.serve(1, make_entry("e1"), make_entry("e2", seed=1))
    bench.stage("next", update_of("a", 2, [(3, make_entry("e3", seed=2))], base=1, removed=["e1", "e2"]))
    bench.settle()
    gate = bench.hold()
    bench.stager.flip("next", 2)
    assert used_rows(bench.store) == (3, 6)
    bench.stage("last", update_of("a", 3, [(4, make_entry("e4", seed=4)), (5, make_entry("e5", seed=5))], base=2))
    gate.opened.set()
    bench.settle()
    assert bench.stager.staged("last").error is None
    assert used_rows(bench.store) == (3, 6)


def test_a_revision_is_not_freed_while_another_is_prepared_on_top_of_it(bench: Bench) -> None:
    kept, new = make_entry("kept"), make_entry("new", seed=1)
    bench.serve(1, kept)
    bench.store.gate = gate = bench.gate()
    bench.stage("t", update_of("a", 2, [(2, new), (1, kept)]))
    assert gate.reached.wait(10)
    bench.codebooks.drop("a")
    gate.opened.set()
    bench.settle()
    view = bench.stager.flip("t", 2)
    check_view(bench.codebooks, view, Expected(2, {"new": (2, new), "kept": (1, kept)}))
    assert used_rows(bench.store) == (2, 4)


def broken() -> Update:
    raise RuntimeError("/secret/path")


def test_what_goes_wrong_is_kept_with_the_ticket_and_the_thread_goes_on(bench: Bench) -> None:
    bench.serve(1, make_entry("old"))
    crowd = [(number, make_entry(f"e{number}", seed=number)) for number in range(2, 6)]
    bench.stage("capacity_exhausted", update_of("a", 2, crowd, base=1))
    bench.stage("revision_gap", update_of("a", 9, base=8))
    bench.stager.stage("internal", 0, broken)
    bench.stage("fine", update_of("a", 2, [(2, make_entry("new", seed=2))], base=1))
    bench.settle()
    for code in ("capacity_exhausted", "revision_gap", "internal"):
        staged = bench.stager.staged(code)
        assert staged.state is StageState.FAILED
        assert staged.error is not None
        assert staged.error.code == code
        assert "secret" not in staged.error.message
        assert refusal(lambda code=code: bench.stager.flip(code, 5)) == "not_staged"  # type: ignore[misc]
        bench.stager.unstage(code)
    assert bench.stager.staged("fine").state is StageState.STAGED
    assert used_rows(bench.store) == (2, 4)


def test_an_update_that_is_unstaged_gives_its_rows_back(bench: Bench) -> None:
    bench.stage("t", update_of("a", 1, [(1, make_entry("e"))]))
    bench.settle()
    assert used_rows(bench.store) == (1, 2)
    bench.stager.unstage("t")
    bench.stager.unstage("t")
    bench.stager.unstage("never")
    bench.settle()
    assert used_rows(bench.store) == (0, 0)
    assert refusal(lambda: bench.stager.flip("t", 1)) == "unknown_ticket"


def test_an_update_can_be_unstaged_while_it_is_staged_and_its_ticket_used_again(bench: Bench) -> None:
    bench.store.gate = gate = bench.gate()
    bench.stage("t", update_of("a", 1, [(1, make_entry("e"))]))
    assert gate.reached.wait(10)
    bench.stager.unstage("t")
    bench.store.gate = None
    bench.stage("t", update_of("a", 2, [(2, make_entry("e", seed=2))]))
    gate.opened.set()
    bench.settle()
    assert used_rows(bench.store) == (1, 2)
    assert bench.stager.flip("t", 1).revision == 2


def test_an_update_that_is_unstaged_before_its_turn_is_never_read(bench: Bench) -> None:
    gate, loaded = bench.hold(), list[str]()

    def load() -> Update:
        loaded.append("t")
        return update_of("a", 1)

    bench.stager.stage("t", 0, load)
    bench.stager.unstage("t")
    gate.opened.set()
    bench.settle()
    assert loaded == []


def test_a_ticket_names_one_update(bench: Bench) -> None:
    bench.stage("t", update_of("a", 1))
    assert refusal(lambda: bench.stage("t", update_of("b", 1))) == "ticket_in_use"
    bench.settle()
    assert bench.stager.flip("t", 1).codebook == "a"


def test_a_change_of_an_agent_that_is_no_longer_in_charge_is_refused(bench: Bench) -> None:
    bench.stager.take_sequence(7)
    bench.stage("t", update_of("a", 1))
    bench.settle()
    for stale in (7, 6, 0):
        assert refusal(lambda stale=stale: bench.stager.flip("t", stale)) == "stale_update"  # type: ignore[misc]
    assert bench.codebooks.current("a") is None
    assert bench.stager.flip("t", 8).revision == 1
    assert bench.stager.sequence == 8
    assert refusal(lambda: bench.stager.take_sequence(8)) == "stale_update"


def test_of_two_updates_from_one_revision_only_the_first_is_taken(bench: Bench) -> None:
    bench.serve(1, make_entry("e1"))
    for ticket in ("x", "y"):
        bench.stage(ticket, update_of("a", 2, [(2, make_entry(ticket, seed=2))], base=1))
    bench.settle()
    view = bench.stager.flip("x", 2)
    assert refusal(lambda: bench.stager.flip("y", 3)) == "revision_gap"
    assert bench.codebooks.current("a") is view
    bench.stager.unstage("y")
    bench.settle()
    assert used_rows(bench.store) == (2, 4)
