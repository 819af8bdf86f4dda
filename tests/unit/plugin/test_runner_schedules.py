"""Both runners' hooks under random schedules: chunks, preemptions, replays and revisions that move meanwhile."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from horen_vllm.plugin.step_output import DECISIONS_ATTRIBUTE
from tests.unit.plugin.entries import Numbered, update_of, used_rows
from tests.unit.plugin.runner_bench import RunnerBench, entry_for
from tests.unit.plugin.simulation import Request
from tests.unit.plugin.spoken import WORDS, SpokenBook, ids_of, spoken_entry, spoken_rule

MOST_RUNNING = 4


class Schedule:
    """Serves requests to their end; every output row is compared by the bench."""

    def __init__(self, version: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = RunnerBench(version, num_slots=MOST_RUNNING)
        self.waiting = [self._request(index) for index in range(20)]
        self.served = list(self.waiting)
        self.running: list[Request] = []
        self.finished: set[str] = set()
        self.outputs: list[SimpleNamespace] = []

    def run(self) -> None:
        revisions = [self._entries(number) for number in range(1, 5)]
        for step in range(300):
            if step % 9 == 0 and revisions:
                self._publish(step + 1, revisions.pop(0))
            if not self.waiting and not self.running:
                self.bench.step(finished=self.finished)
                return
            self._step()
        pytest.fail("the schedule did not end")

    def _publish(self, revision: int, entries: list[Numbered]) -> None:
        self.bench.publish(revision, *entries)

    def _step(self) -> None:
        preempted = self._preempt()
        while self.waiting and len(self.running) < MOST_RUNNING:
            if self.waiting[0].name in preempted:
                break
            self.running.append(self.waiting.pop(0))
        chosen = [request for request in self.running if self.random.random() < 0.8]
        batch = [(request, self._chunk(request)) for request in chosen]
        ended, self.finished = self.finished, set()
        # Made later, and read only after the schedule's end: as the output thread of async scheduling may.
        later = SimpleNamespace(get_output=SimpleNamespace)
        self.bench.step(*batch, finished=ended, preempted=preempted, output=later)
        self.outputs.append(later)
        for request in [request for request in self.running if request.done == len(request.inputs)]:
            self.running.remove(request)
            self.finished.add(request.name)

    def _chunk(self, request: Request) -> int:
        left = len(request.inputs) - request.done
        # After its prompt a request computes one token a step, which is what full graphs are replayed for.
        return min(left, self.random.choice([1, 2, 4, 9])) if request.done < request.prompt else 1

    def _preempt(self) -> set[str]:
        if not self.running or self.random.random() > 0.35:
            return set()
        victim = self.running.pop(self.random.randrange(len(self.running)))
        # One that is decided may read all of its blocks when it resumes; any other only those before its window.
        cached = victim.done - 1 if victim.done >= victim.prompt else min(victim.done, victim.window[0])
        victim.done = self.random.choice([0, cached])
        # Others take its place first, and its slot.
        self.waiting.insert(self.random.choice([0, 3]), victim)
        return {victim.name}

    def _request(self, index: int) -> Request:
        prompt = self.random.choice([1, 2, 5, 8, 13])
        codebook = self.random.choice(["a"] * 8 + [None, "missing"])
        request = self.bench.request(f"r{index}", prompt, codebook=codebook, total=prompt + self.random.randrange(1, 7))
        request.span = self.random.choice([None, (prompt // 3, prompt - prompt // 4)])
        return request

    def _entries(self, revision: int) -> list[Numbered]:
        chosen = [request for request in self.served if self.random.random() < 0.6]
        return [entry_for(item, span=1 + index % 4, number=100 * revision + index) for index, item in enumerate(chosen)]


class SpokenSchedule(Schedule):
    """Requests with words, and entries that are anchored to their names and keyed without them."""

    rule = spoken_rule(mask_subject=True, threshold=0.97, anchored_threshold=0.97)

    def _publish(self, revision: int, entries: list[Numbered]) -> None:
        book = SpokenBook(revision, 0.97, entries, self.rule)
        self.bench.publish_book(update_of("a", revision, entries, rule=self.rule), book)

    def _request(self, index: int) -> Request:
        request = super()._request(index)
        request.words = tuple(self.random.choices(WORDS, k=request.prompt))
        request.prompt_ids = ids_of(request.words)
        return request

    def _entries(self, revision: int) -> list[Numbered]:
        chosen = [request for request in self.served if self.random.random() < 0.6]
        return [
            spoken_entry(item, span=1 + index % 4, number=100 * revision + index) for index, item in enumerate(chosen)
        ]


@pytest.mark.parametrize("kind", [Schedule, SpokenSchedule])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("seed", range(4))
def test_every_row_and_every_decision_is_what_the_reference_says(kind: type[Schedule], version: str, seed: int) -> None:
    schedule = kind(version, seed)
    bench = schedule.bench
    schedule.run()
    assert bench.edited >= 8
    assert {True, False} == set(bench.replayed)
    reports: dict[str, dict[str, Any]] = {}
    for output in schedule.outputs:
        reports |= getattr(output.get_output(), DECISIONS_ATTRIBUTE, {})
    tagged = [request for request in schedule.served if request.codebook]
    assert reports.keys() == {request.name for request in tagged}
    for request in tagged:
        fired = request.fired()
        assert reports[request.name]["edit_id"] == (fired.manifest.edit_id if fired else None)
        assert reports[request.name]["revision"] == (request.book.revision if request.book else None)
    assert len(bench.site.requests) == 0
    bench.site.codebooks.drop("a")
    assert used_rows(bench.site.codebooks.store) == (0, 0)
