"""Which entries compete for a prompt, what their queries leave out, and what an explanation says of the others."""

from typing import Any

import pytest
import torch

from horen_vllm.core.words import TokenText
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.revisions import RevisionView
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.subjects import subjects_of
from horen_vllm.plugin.tag import RequestTag
from tests.unit.plugin.entries import D_IN, D_OUT, make_codebooks, make_entry, publish, update_of
from tests.unit.plugin.spoken import ids_of, spoken_rule, spoken_texts

NAME = "tenants/default/codebooks/a"
WHO = ("who", "is", "ann", "the", "king", "of", "bo", "cy")


def view_of(*anchors: str, **changes: Any) -> RevisionView:
    """Return a revision with an entry for each name; an empty name is an open entry."""
    codebooks = make_codebooks(texts=spoken_texts())
    entries = [
        (number, make_entry(f"e{number}", seed=number, anchors=(name,) if name else ()))
        for number, name in enumerate(anchors, start=1)
    ]
    return publish(codebooks, update_of(NAME, 1, entries, rule=spoken_rule(**{"mask_subject": True, **changes})))


def text_of(words: tuple[str, ...], first: int = 0) -> TokenText:
    return TokenText([f" {word}" for word in words], first)


def test_hits_with_the_same_tokens_share_a_query() -> None:
    view = view_of("ann", "", "bo", "ann", "king of", "nobody")
    found = subjects_of(text_of(WHO), (1, 8), view, 4)
    assert found.ranges == ((2, 3), (4, 6), (6, 7))
    assert {(query.entries, query.ranges) for query in found.queries} == {((0, 3), (0,)), ((2,), (2,)), ((4,), (1,))}
    assert (set(found.competing), set(found.left_out)) == ({0, 2, 3, 4}, set())


def test_what_needs_a_range_beyond_the_first_ones_is_left_out() -> None:
    view = view_of("ann", "bo", "king", "cy")
    found = subjects_of(text_of(WHO), (0, 8), view, 2)
    assert found.ranges == ((2, 3), (4, 5))
    assert (set(found.competing), set(found.left_out)) == ({0, 2}, {1, 3})


def test_a_subject_before_the_window_leaves_no_token_out_but_its_words() -> None:
    view = view_of("ann")
    found = subjects_of(text_of(WHO), (4, 8), view, 0)
    assert (found.ranges, [query.mask.tokens for query in found.queries], found.left_out) == ((), [()], frozenset())


@pytest.mark.parametrize("masks", [True, False])
def test_a_window_that_is_all_subject_is_asked_whole(masks: bool) -> None:
    view = view_of("ann bo", mask_subject=masks)
    found = subjects_of(text_of(("who", "ann", "bo"), 5), (6, 8), view, 4)
    assert (found.ranges, found.queries[0].mask.tokens, found.queries[0].mask.words) == ((), (), ("who", "ann", "bo"))


def test_without_a_name_nothing_anchored_competes() -> None:
    found = subjects_of(text_of(("who", "is")), (0, 2), view_of("ann"), 4)
    assert (found.queries, found.ranges, found.words) == ((), (), ("who", "is"))


def test_a_name_at_the_end_of_the_text_is_not_taken_for_a_longer_one() -> None:
    found = subjects_of(text_of(("is", "bo")), (0, 2), view_of("bo", "bo cy"), 4)
    assert (found.ranges, set(found.competing)) == (((1, 2),), {0})


def explained(words: tuple[str, ...], most: int = 4, threshold: float = 0.5, explain: int = 9) -> dict[str, Any]:
    """Ask, with site inputs of all ones, a codebook of an open entry and of three anchored ones."""
    codebooks = make_codebooks(texts=spoken_texts(), subject_ranges=most)
    keys = {
        name: torch.eye(D_IN)[:1] * weight for name, weight in (("open", 1.0), ("ann", 0.5), ("bo", 0.75), ("dee", 2.0))
    }
    entries = [
        (number, make_entry(name, keys=key, anchors=() if name == "open" else (name,)))
        for number, (name, key) in enumerate(keys.items(), start=1)
    ]
    rule = spoken_rule(mask_subject=True, threshold=0.3, anchored_threshold=threshold)
    publish(codebooks, update_of(NAME, 1, entries, rule=rule))
    site = EditSite(codebooks, num_slots=1, positions=torch.arange(16))
    count = len(words)
    site.begin_step([BatchRow("r", RequestTag(NAME, 1.0, explain=explain), 0, count, 0, count, ids_of(words))])
    inputs = torch.zeros(count, D_IN)
    inputs[:, 0] = 1.0
    site.run(inputs, torch.zeros(count, D_OUT))
    [report] = site.take_decisions().reports().values()
    return report


def test_entries_whose_subject_is_absent_are_listed_as_blocked() -> None:
    report = explained(WHO, threshold=0.6)
    assert (report["edit_id"], report["score"], report["threshold"]) == ("bo", 0.75, 0.6)
    assert report["nearest"] == [
        {"edit_id": "dee", "score": 2.0, "blocked": "subject_absent"},
        {"edit_id": "open", "score": 1.0, "threshold": 0.3, "outranked": True},
        {"edit_id": "bo", "score": 0.75},
        {"edit_id": "ann", "score": 0.5},
    ]
    assert "left_out" not in report


def test_an_open_match_reports_its_own_group() -> None:
    report = explained(WHO, threshold=0.9)
    assert (report["edit_id"], report["score"], report["threshold"], report["runner_up"]) == ("open", 1.0, 0.3, None)
    assert [row.get("threshold") for row in report["nearest"]] == [0.9, None, 0.9, 0.9]


def test_entries_that_are_left_out_are_counted() -> None:
    report = explained(WHO, most=1)
    assert (report["left_out"], report["edit_id"]) == (1, "open")
    assert {"edit_id": "bo", "score": 0.75, "threshold": 0.5, "blocked": "left_out"} in report["nearest"]
    assert explained(WHO, most=1, explain=0)["left_out"] == 1
