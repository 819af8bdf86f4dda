"""Lives of requests that name subjects, on both runners: chunks, preemptions, and revisions with other aliases."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from torch.nn import functional as F

from horen_vllm.errors import FailedPrecondition, Internal
from horen_vllm.plugin.step_output import DECISIONS_ATTRIBUTE
from tests.unit.plugin.entries import Numbered, make_codebooks, make_entry, update_of
from tests.unit.plugin.runner_bench import RunnerBench
from tests.unit.plugin.simulation import Request
from tests.unit.plugin.spoken import SpokenBook, ids_of, spoken_entry, spoken_rule, spoken_texts

PROMPT = ("who", "is", "ann", "the", "bo", "king", "of", "cy")
RULE = spoken_rule(mask_subject=True, threshold=0.97, anchored_threshold=0.97)


@pytest.fixture(params=["v1", "v2"])
def bench(request: pytest.FixtureRequest) -> RunnerBench:
    return RunnerBench(request.param)


def ask(bench: RunnerBench, name: str, words: Sequence[str] = PROMPT) -> Request:
    request = bench.request(name, len(words), total=len(words) + 6)
    request.ratio, request.words, request.prompt_ids = 0.8, tuple(words), ids_of(words)
    return request


def publish(bench: RunnerBench, revision: int, *entries: Numbered) -> None:
    bench.publish_book(update_of("a", revision, entries, rule=RULE), SpokenBook(revision, 0.97, list(entries), RULE))


def report_of(bench: RunnerBench, name: str, *batch: tuple[Request, int], **changes: Any) -> dict[str, Any]:
    output = bench.step(*batch, output=SimpleNamespace(), **changes)
    found: dict[str, Any] = getattr(output, DECISIONS_ATTRIBUTE)[name]
    return found


def test_a_prompt_in_any_chunks_is_decided_as_in_one(bench: RunnerBench) -> None:
    request = ask(bench, "whole")
    # The rival leaves out one of the three names only, and its key is a little beside its query.
    _, rival = spoken_entry(request, span=3, number=2, names=("bo",))
    key = F.normalize(rival.keys + 0.05, dim=1)
    beside = (2, make_entry("e2", keys=key, span=3, anchors=("bo",)))
    publish(bench, 1, spoken_entry(request, span=3), beside)
    whole = report_of(bench, "whole", (request, len(PROMPT)))
    assert (whole["edit_id"], whole["runner_up"]) == ("e1", "e2")
    for count in (1, 2, 3):
        for cuts in combinations(range(1, len(PROMPT)), count):
            name = f"cut-{cuts}"
            again = ask(bench, name)
            again.inputs = request.inputs
            edges = [0, *cuts, len(PROMPT)]
            chunks = [stop - start for start, stop in pairwise(edges)]
            for chunk in chunks[:-1]:
                bench.step((again, chunk))
            found = report_of(bench, name, (again, chunks[-1]))
            assert found.pop("score") == pytest.approx(whole["score"], abs=1e-6)
            assert found.pop("runner_up_score") == pytest.approx(whole["runner_up_score"], abs=1e-6)
            assert found.items() <= whole.items()
            bench.step((again, 1))
            bench.step(finished={name})
    assert bench.edited > 60


def test_a_chunk_of_each_token_pools_what_a_subject_leaves_out(bench: RunnerBench) -> None:
    request = ask(bench, "m")
    publish(bench, 1, spoken_entry(request, span=2))
    for _ in PROMPT[1:]:
        bench.step((request, 1))
    assert report_of(bench, "m", (request, 1))["edit_id"] == "e1"
    assert len(bench.site.requests._live["m"].subjects.ranges) == 3


@pytest.mark.parametrize("done", [1, 3, 4, 5, 7])
def test_a_request_that_is_preempted_in_its_prompt_sums_its_ranges_anew(bench: RunnerBench, done: int) -> None:
    request, other = ask(bench, "m"), ask(bench, "n", PROMPT[::-1])
    publish(bench, 1, spoken_entry(request, span=2), spoken_entry(other, span=2, number=2))
    bench.step((request, done))
    bench.step((other, len(PROMPT)), preempted={"m"})
    # What was pooled before the preemption is another's by now, and what the window does not need stays cached.
    request.done = min(done, request.window[0])
    assert report_of(bench, "m", (request, len(PROMPT) - request.done), (other, 1))["edit_id"] == "e1"
    assert bench.edited == 3


def test_a_range_that_began_in_cached_blocks_is_refused(bench: RunnerBench) -> None:
    request = ask(bench, "m")
    publish(bench, 1, spoken_entry(request, span=2))
    request.done = 4
    with pytest.raises(Internal):
        bench.step((request, 4))


def test_a_pinned_revision_keeps_its_own_aliases(bench: RunnerBench) -> None:
    early, late, back = (ask(bench, name) for name in ("early", "late", "back"))
    late.inputs = back.inputs = early.inputs
    [first, second] = (spoken_entry(early, span=1, names=names) for names in (("bo",), ("bo",)))
    renamed = (2, make_entry("e1", keys=second[1].keys, span=1, anchors=("dee",)))
    publish(bench, 1, first)
    bench.step((early, 3))
    publish(bench, 2, renamed)
    assert report_of(bench, "early", (early, 5))["edit_id"] == "e1"
    assert report_of(bench, "late", (late, 8), (early, 1))["edit_id"] is None
    publish(bench, 3, first)
    assert report_of(bench, "back", (back, 8), (early, 1), (late, 1))["edit_id"] == "e1"


def test_a_request_without_its_token_ids_is_an_internal_error(bench: RunnerBench) -> None:
    request = ask(bench, "m")
    publish(bench, 1, spoken_entry(request, span=2))
    request.prompt_ids = None
    with pytest.raises(Internal):
        bench.step((request, 8))


def test_prompts_of_codebooks_without_words_are_not_read(bench: RunnerBench) -> None:
    request = ask(bench, "m")
    request.prompt_ids = None
    bench.publish(1, (1, make_entry("e1", anchors=("ann",))))
    assert report_of(bench, "m", (request, 8))["threshold"] == 0.97


def test_what_this_engine_cannot_mask_or_read_is_refused_at_the_update() -> None:
    entry = (1, make_entry("e1", anchors=("ann",)))
    for codebooks, code in (
        (make_codebooks(texts=spoken_texts(), subject_ranges=0), "unsupported_engine_mode"),
        (make_codebooks(), "unsupported_tokenizer"),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            codebooks.prepare(update_of("a", 1, [entry], rule=RULE))
        assert caught.value.code == code
        assert codebooks.store.pages()["keys"]["used"] == 0
