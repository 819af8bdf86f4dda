"""The edit site on a small linear layer: mixed batches, all kinds of value, revisions that move under load."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from horen_vllm.core.presets import ValueMode
from tests.unit.plugin.entries import D_IN, Numbered, make_entry, parameters, publish, update_of, used_rows
from tests.unit.plugin.simulation import SLOTS, Book, Request, Simulation

MODES = [
    (ValueMode.SEQUENCE, 3, 1, 0),
    (ValueMode.ANSWER, 4, 4, 0),
    (ValueMode.LAST, 1, 1, 0),
    (ValueMode.ANSWER, 3, 3, 2),
    (ValueMode.SEQUENCE, 5, 2, 0),
    (ValueMode.SEQUENCE, 1, 1, 0),
]
"""Mode, span, chunk, rank."""


def key_of(request: Request) -> torch.Tensor:
    """Return the key that a request matches exactly."""
    return F.normalize(request.inputs[slice(*request.window)].mean(dim=0, keepdim=True), dim=-1)


def entries_for(requests: list[Request], *, seed: int) -> list[Numbered]:
    """Return one entry for every second request, with the kinds of value in turn and a foreign second key."""
    made = []
    for index, request in enumerate(requests[::2]):
        mode, span, chunk, rank = MODES[(index + seed) % len(MODES)]
        other = F.normalize(torch.randn(1, D_IN, generator=torch.Generator().manual_seed(index)))
        keys, number = torch.cat([other, key_of(request)]), 100 * seed + index
        shape: dict[str, Any] = {"span": span, "mode": mode, "chunk": chunk, "rank": rank}
        made.append((number, make_entry(f"e{seed}-{index}", seed=number, keys=keys, **shape)))
    return made


def make_requests(simulation: Simulation, count: int) -> list[Request]:
    made = []
    for index in range(count):
        prompt = simulation.random.choice([1, 2, 3, 5, 8, 13])
        codebook = ("a", "b", None, "missing")[simulation.random.choice([0, 0, 0, 1, 1, 2, 3])]
        total = prompt + simulation.random.randrange(1, 8)
        span = simulation.random.choice([None, (prompt // 3, prompt - prompt // 4)])
        made.append(Request(f"r{index}", codebook, prompt, simulation.inputs(total), span=span))
    return made


def run_all(simulation: Simulation, requests: list[Request], at_step: dict[int, list[Numbered]]) -> None:
    """Serve all requests, at most `SLOTS` at once, with random chunks and preemptions."""
    waiting, running = list(requests), list[Request]()
    for step in range(400):
        if step in at_step:
            simulation.publish("a", 2 + step, at_step[step])
        while waiting and len(running) < SLOTS:
            running.append(waiting.pop(0))
        if not running:
            return
        simulation.random.shuffle(running)
        batch = [request for request in running if simulation.random.random() < 0.8]
        if batch:
            chunks = [min(simulation.random.choice([1, 1, 2, 4, 9]), len(item.inputs) - item.done) for item in batch]
            simulation.step(list(zip(batch, chunks, strict=True)))
        for request in [item for item in running if item.done == len(item.inputs)]:
            simulation.site.requests.finish(request.name)
            running.remove(request)
        if running and simulation.random.random() < 0.15:
            victim = running.pop(0)
            simulation.site.requests.preempt(victim.name)
            victim.done = simulation.random.choice([0, min(victim.done, victim.window[0])])
            waiting.insert(0, victim)
    pytest.fail("the schedule did not end")


@pytest.mark.parametrize("seed", range(8))
def test_every_output_row_is_what_the_reference_says(seed: int) -> None:
    simulation = Simulation(seed)
    requests = make_requests(simulation, 24)
    entries = entries_for(requests, seed=seed)
    simulation.publish("a", 1, entries)
    simulation.publish("b", 1, entries_for(requests, seed=seed + 1))
    later = {9: entries_for(requests, seed=seed + 2), 21: [], 30: entries_for(requests, seed=seed + 3)}
    run_all(simulation, requests, later)
    assert simulation.edited >= 10
    assert simulation.compared > 3 * simulation.edited
    tagged = [request for request in requests if request.codebook]
    assert simulation.reports.keys() == {request.name for request in tagged}
    for request in tagged:
        report, fired = simulation.reports[request.name], request.fired()
        assert report["codebook"] == request.codebook
        assert report["revision"] == (request.book.revision if request.book else None)
        assert report["edit_id"] == (fired.manifest.edit_id if fired else None)
    simulation.codebooks.drop("a")
    simulation.codebooks.drop("b")
    assert used_rows(simulation.codebooks.store) == (0, 0)


def matching(
    mode: ValueMode, span: int, *, chunk: int = 1, rank: int = 0, where: tuple[int, int] | None = None
) -> tuple[Simulation, Request]:
    simulation = Simulation(seed=0)
    request = Request("r", "a", 4, simulation.inputs(12), span=where)
    entry = make_entry("e", keys=key_of(request), span=span, mode=mode, chunk=chunk, rank=rank, seed=7)
    simulation.publish("a", 1, [(1, entry)])
    return simulation, request


@pytest.mark.parametrize("where", [None, (1, 3), (0, 1), (3, 4)])
@pytest.mark.parametrize(("mode", "span", "chunk", "rank"), MODES)
def test_a_value_ends_with_its_span(
    mode: ValueMode, span: int, chunk: int, rank: int, where: tuple[int, int] | None
) -> None:
    simulation, request = matching(mode, span, chunk=chunk, rank=rank, where=where)
    simulation.step([(request, 2)])
    simulation.step([(request, 2)])
    for _ in range(8):
        simulation.step([(request, 1)])
    assert simulation.edited == span


def twin(request: Request, name: str) -> Request:
    return Request(name, "a", 4, request.inputs)


def test_an_admitted_request_keeps_its_revision_and_a_new_one_gets_the_next() -> None:
    simulation, old = matching(ValueMode.ANSWER, 6)
    simulation.step([(old, 2)])
    new = twin(old, "new")
    simulation.publish("a", 2, [(2, make_entry("e2", keys=key_of(old), span=6, mode=ValueMode.ANSWER, seed=8))])
    simulation.step([(old, 2), (new, 4)])
    simulation.step([(new, 1), (old, 1)])
    assert simulation.reports["r"]["edit_id"] == "e"
    assert simulation.reports["r"]["revision"] == 1
    assert simulation.reports["new"]["edit_id"] == "e2"
    assert simulation.edited == 4


def test_a_decision_survives_preemption_and_a_drop_of_its_codebook() -> None:
    simulation, request = matching(ValueMode.SEQUENCE, 5)
    simulation.step([(request, 4)])
    simulation.step([(request, 1)])
    simulation.site.requests.preempt("r")
    simulation.codebooks.drop("a")
    taker = Request("taker", "b", 2, simulation.inputs(6))
    entry = make_entry("other", keys=key_of(taker), span=3, mode=ValueMode.ANSWER, seed=9)
    simulation.publish("b", 1, [(1, entry)])
    simulation.step([(taker, 2)])
    request.done = 0
    simulation.step([(taker, 1), (request, 7)])
    assert simulation.edited == 2 + 2 + 4
    assert list(simulation.reports) == ["r", "taker"]


def test_a_request_that_matched_nothing_writes_nothing_after_it_is_resumed() -> None:
    simulation, request = matching(ValueMode.ANSWER, 9)
    stranger = Request("s", "a", 3, -request.inputs)
    simulation.step([(request, 4)])
    simulation.step([(stranger, 3), (request, 1)])
    for name in ("r", "s"):
        simulation.site.requests.preempt(name)
    # Slots are handed out again in another order: each finds the other's value in its own.
    simulation.step([(request, 1), (stranger, 1)])
    simulation.step([(stranger, 2), (request, 2)])
    assert simulation.edited == 5


def test_a_request_that_is_preempted_before_its_decision_is_routed_under_the_revision_it_was_admitted_to() -> None:
    simulation, request = matching(ValueMode.ANSWER, 4)
    simulation.step([(request, 3)])
    simulation.site.requests.preempt("r")
    simulation.publish("a", 2, [])
    request.done = 1
    simulation.step([(request, 3)])
    assert (simulation.reports["r"]["edit_id"], simulation.reports["r"]["revision"]) == ("e", 1)
    assert used_rows(simulation.codebooks.store) == (1, 1)
    simulation.site.requests.finish("r")
    assert used_rows(simulation.codebooks.store) == (0, 0)


def test_identical_keys_belong_to_the_later_edit_until_it_is_retired() -> None:
    simulation, request = matching(ValueMode.ANSWER, 2)
    twins = [make_entry(name, keys=key_of(request), span=2, mode=ValueMode.ANSWER, seed=3) for name in ("x", "y")]
    simulation.publish("a", 2, list(enumerate(twins, start=5)))
    simulation.step([(request, 4)])
    assert simulation.reports["r"]["edit_id"] == "y"
    publish(simulation.codebooks, update_of("a", 3, base=2, removed=["y"], rule=parameters(0.97)))
    simulation.books["a"] = Book(3, 0.97, [(5, twins[0])])
    simulation.step([(twin(request, "later"), 4)])
    assert simulation.reports["later"]["edit_id"] == "x"


def test_an_exact_tie_of_different_keys_goes_to_the_later_edit() -> None:
    simulation = Simulation(seed=1)
    request = Request("r", "a", 1, torch.eye(D_IN)[:1])
    left, right = (torch.tensor([[0.6, side, 0.0, 0.0, 0.0, 0.0]]) for side in (0.8, -0.8))
    entries = [make_entry(name, keys=key, span=2) for name, key in (("x", left), ("y", right))]
    simulation.publish("a", 1, list(enumerate(entries)), threshold=0.5)
    simulation.step([(request, 1)])
    report = simulation.reports["r"]
    assert (report["edit_id"], report["runner_up"]) == ("y", "x")
    assert report["score"] == report["runner_up_score"]
