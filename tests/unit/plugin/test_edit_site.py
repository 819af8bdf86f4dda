"""The edit site on a small linear layer: mixed batches, all value modes, revisions that move under load."""

import math

import pytest
import torch

from horen_vllm.artifact import EntryArtifact
from horen_vllm.core.presets import ValueMode
from tests.unit.plugin.entries import D_IN, make_entry, parameters
from tests.unit.plugin.simulation import ROWS, SLOTS, Book, Request, Simulation

MODES = [(ValueMode.SEQUENCE, 3), (ValueMode.ANSWER, 4), (ValueMode.LAST, 1), (ValueMode.SEQUENCE, 1)]


def publish(simulation: Simulation, name: str, revision: int, entries: list[EntryArtifact]) -> None:
    """Publish a whole revision to the site and to the reference."""
    added = [(10 * revision + index, entry) for index, entry in enumerate(entries)]
    simulation.codebooks.apply(
        name, base_revision=0, revision=revision, parameters=parameters(threshold=0.97), added=added, removed=[]
    )
    simulation.books[name] = Book(revision, 0.97, added)


def key_of(request: Request) -> torch.Tensor:
    """Return the key that a request matches exactly."""
    start = request.prompt - math.ceil(request.ratio * request.prompt)
    return torch.nn.functional.normalize(request.inputs[start : request.prompt].mean(dim=0, keepdim=True), dim=-1)


def entries_for(requests: list[Request], *, seed: int) -> list[EntryArtifact]:
    """Return one entry for every second request, with the value modes in turn and a foreign second key."""
    made = []
    for index, request in enumerate(requests[::2]):
        mode, span = MODES[(index + seed) % len(MODES)]
        other = torch.nn.functional.normalize(torch.randn(1, D_IN, generator=torch.Generator().manual_seed(index)))
        keys = torch.cat([other, key_of(request)])
        made.append(make_entry(f"e{seed}-{index}", seed=seed * 100 + index, keys=keys, span=span, mode=mode))
    return made


def make_requests(simulation: Simulation, count: int) -> list[Request]:
    made = []
    for index in range(count):
        prompt = simulation.random.choice([1, 2, 3, 5, 8, 13])
        codebook = ("a", "b", None, "missing")[simulation.random.choice([0, 0, 0, 1, 1, 2, 3])]
        total = prompt + simulation.random.randrange(1, 8)
        made.append(Request(f"r{index}", codebook, prompt, simulation.inputs(total)))
    return made


def run_all(simulation: Simulation, requests: list[Request], at_step: dict[int, list[EntryArtifact]]) -> None:
    """Serve all requests, at most `SLOTS` at once, with random chunks and preemptions."""
    waiting, running = list(requests), list[Request]()
    for step in range(400):
        if step in at_step:
            publish(simulation, "a", 2 + step, at_step[step])
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
            victim.done = simulation.random.choice([0, victim.prompt - math.ceil(victim.ratio * victim.prompt)])
            waiting.insert(0, victim)
    pytest.fail("the schedule did not end")


@pytest.mark.parametrize("seed", range(8))
def test_every_output_row_is_what_the_reference_says(seed: int) -> None:
    simulation = Simulation(seed)
    requests = make_requests(simulation, 24)
    entries = entries_for(requests, seed=seed)
    publish(simulation, "a", 1, entries)
    publish(simulation, "b", 1, entries_for(requests, seed=seed + 1))
    later = {9: entries_for(requests, seed=seed + 2), 21: [], 30: entries_for(requests, seed=seed + 3)}
    run_all(simulation, requests, later)
    assert simulation.edited >= 10
    assert simulation.compared > 3 * simulation.edited
    routed = {request.name for request in requests if request.codebook in {"a", "b"}}
    assert simulation.reports.keys() == routed
    for request in requests:
        if request.name in routed:
            report, fired = simulation.reports[request.name], request.fired()
            assert request.book is not None
            assert report["codebook"] == request.codebook
            assert report["revision"] == request.book.revision
            assert report["edit_id"] == (fired.manifest.edit_id if fired else None)
    simulation.codebooks.drop("a")
    simulation.codebooks.drop("b")
    assert simulation.codebooks._key_rows.num_free == ROWS
    assert simulation.codebooks._value_rows.num_free == ROWS


def matching(mode: ValueMode, span: int, *, name: str = "a", seed: int = 0) -> tuple[Simulation, Request]:
    simulation = Simulation(seed)
    request = Request("r", name, 4, simulation.inputs(12))
    publish(simulation, name, 1, [make_entry("e", keys=key_of(request), span=span, mode=mode, seed=7)])
    return simulation, request


@pytest.mark.parametrize(("mode", "span"), MODES)
def test_a_value_ends_with_its_span(mode: ValueMode, span: int) -> None:
    simulation, request = matching(mode, span)
    simulation.step([(request, 4)])
    for _ in range(8):
        simulation.step([(request, 1)])
    assert simulation.edited == span


def test_an_admitted_request_keeps_its_revision_and_a_new_one_gets_the_next() -> None:
    simulation, old = matching(ValueMode.ANSWER, 6)
    simulation.step([(old, 2)])
    new = Request("new", "a", 4, old.inputs)
    publish(simulation, "a", 2, [make_entry("e2", keys=key_of(old), span=6, mode=ValueMode.ANSWER, seed=8)])
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
    publish(simulation, "b", 1, [make_entry("other", keys=key_of(taker), span=3, mode=ValueMode.ANSWER, seed=9)])
    simulation.step([(taker, 2)])
    request.done = 0
    simulation.step([(taker, 1), (request, 7)])
    assert simulation.edited == 2 + 2 + 4
    assert list(simulation.reports) == ["r", "taker"]


def test_identical_keys_belong_to_the_later_edit_until_it_is_retired() -> None:
    simulation, request = matching(ValueMode.ANSWER, 2)
    twins = [make_entry(name, keys=key_of(request), span=2, mode=ValueMode.ANSWER, seed=3) for name in ("x", "y")]
    publish(simulation, "a", 2, twins)
    simulation.step([(request, 4)])
    assert simulation.reports["r"]["edit_id"] == "y"
    simulation.codebooks.apply(
        "a", base_revision=2, revision=3, parameters=parameters(threshold=0.97), added=[], removed=["y"]
    )
    simulation.books["a"] = Book(3, 0.97, [(20, twins[0])])
    simulation.step([(Request("later", "a", 4, request.inputs), 4)])
    assert simulation.reports["later"]["edit_id"] == "x"


def test_an_exact_tie_of_different_keys_goes_to_the_later_edit() -> None:
    simulation = Simulation(seed=1)
    request = Request("r", "a", 1, torch.eye(D_IN)[:1])
    left, right = (torch.tensor([[0.6, side, 0.0, 0.0, 0.0, 0.0]]) for side in (0.8, -0.8))
    entries = [make_entry(name, keys=key, span=2) for name, key in (("x", left), ("y", right))]
    added = list(enumerate(entries))
    simulation.codebooks.apply(
        "a", base_revision=0, revision=1, parameters=parameters(threshold=0.5), added=added, removed=[]
    )
    simulation.books["a"] = Book(1, 0.5, added)
    simulation.step([(request, 1)])
    report = simulation.reports["r"]
    assert (report["edit_id"], report["runner_up"]) == ("y", "x")
    assert report["score"] == report["runner_up_score"]
