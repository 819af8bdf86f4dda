"""The judge: equal to the plain rules on random streams of edits, and every reason to refuse."""

from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.artifact import KeyContext
from horen_vllm.core.admission import AdmissionKind
from horen_vllm.core.presets import MethodParameters, preset_parameters
from horen_vllm.editor.codebook import nearest
from horen_vllm.editor.codebook.book import EditorCodebook
from horen_vllm.editor.codebook.judge import Judge
from horen_vllm.editor.codebook.prospect import Captured, Prospect
from horen_vllm.editor.contexts import EditContext, PromptForm
from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.keying import Keying
from horen_vllm.ids import EditId
from tests.unit.editor.plain_judge import (
    COSINE,
    PRESETS,
    WIDTH,
    Outcome,
    Plain,
    Stored,
    axis,
    book_of,
    entry,
    judged,
    outcome,
    prospect,
    stream,
    turned,
)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    parameters=st.sampled_from(PRESETS),
    batch=st.sampled_from([1, 7, 40]),
    spread=st.sampled_from([0.15, 0.4]),
    listed=st.sampled_from([2, 32]),
)
def test_verdicts_are_those_of_the_plain_rules(
    seed: int, parameters: MethodParameters, batch: int, spread: float, listed: int
) -> None:
    with patch.object(nearest, "_LISTED", listed):
        play(stream(seed, 30, spread), parameters, batch)


def play(edits: Sequence[Prospect], parameters: MethodParameters, batch: int) -> None:
    """Judge edits both ways and add those that pass; now and then an entry leaves."""
    stored, plain = Stored(), Plain(parameters)
    book = EditorCodebook(Keying(parameters), WIDTH, stored.load)
    for start in range(0, len(edits), batch):
        judge = Judge(book, edits[start : start + batch])
        for index, new in enumerate(judge.prospects):
            got = outcome(judge, index)
            assert got == plain.judged(new)
            if len(got) > 1 and got[0] is not AdmissionKind.SAME:
                supersedes = [item.edit_id for item in plain.live if item.edit_id in got[3]]  # type: ignore[operator]
                book.add(stored.put(new), supersedes)
                plain.live = [*(item for item in plain.live if item.edit_id not in supersedes), new]
            if new.sequence % 9 == 0 and plain.live:
                gone = plain.live.pop(new.sequence % len(plain.live))
                kept = [entry(item) for item in plain.live]
                book.update(book.revision + 1, kept, [gone.edit_id])
    assert book.entries == len(plain.live)


def test_a_context_that_is_shared_takes_over_the_key_that_is_there() -> None:
    earlier = prospect(1, 5, axis(0)[None], contexts=[4])
    nearly = F.normalize(axis(0) + 1e-6 * axis(1), dim=0)
    edits = [
        prospect(2, 5, torch.stack([nearly, axis(3)]), contexts=[4, 8]),
        prospect(3, 5, F.normalize(axis(3) + 1e-6 * axis(1), dim=0)[None], contexts=[8]),
    ]
    first, second = Judge(book_of(COSINE, earlier), edits).prospects
    assert torch.equal(first.keys, torch.stack([axis(0), axis(3)]))
    assert torch.equal(second.keys, axis(3)[None])


def test_other_contexts_keep_their_own_keys() -> None:
    edit = prospect(2, 5, turned(0.001)[None], contexts=[5])
    [same] = Judge(book_of(COSINE, prospect(1, 5, axis(0)[None], contexts=[4])), [edit]).prospects
    assert torch.equal(same.keys, edit.keys)


@pytest.mark.parametrize("parameters", PRESETS)
def test_a_context_of_an_earlier_edit_with_another_target_is_refused(parameters: MethodParameters) -> None:
    book = book_of(parameters, prospect(1, 5, torch.stack([axis(1), axis(0)])))
    new = prospect(2, 6, torch.stack([axis(0), axis(2)]))
    with pytest.raises(
        EditFailed, match=r"edit e1 .* 1\.0000 now and 1\.0000 with this edit, threshold 0\.[59]"
    ) as caught:
        Judge(book, [new]).verdict(0)
    assert caught.value.code == "earlier_entry_silenced"


@pytest.mark.parametrize("parameters", PRESETS)
def test_a_context_of_an_earlier_edit_with_the_same_target_is_reported(parameters: MethodParameters) -> None:
    earlier = prospect(1, 5, torch.stack([axis(1), axis(0)]))
    new = prospect(2, 5, torch.stack([axis(0), axis(2)]))
    verdict = Judge(book_of(parameters, earlier), [new]).verdict(0)
    assert (verdict.kind, verdict.alias_of) == (AdmissionKind.ALIAS, "e1")
    assert verdict.captured == (Captured(EditId("e1"), KeyContext((7, 1001), (0, 2))),)


def test_equal_contexts_whose_keys_differ_by_rounding_are_equal() -> None:
    """Artifacts that do not name their contexts keep the keys that they were made with."""
    nearly = axis(0) * (1 + 2e-7)
    book = book_of(COSINE, prospect(1, 5, nearly[None]))
    assert judged(book, prospect(2, 6, axis(0)[None])) == ("earlier_entry_silenced",)
    assert judged(book, prospect(2, 5, axis(0)[None]))[0] is AdmissionKind.ALIAS


def test_an_edit_may_take_the_contexts_of_what_it_supersedes() -> None:
    book = book_of(COSINE, prospect(1, 5, axis(0)[None], prompt="p"), prospect(2, 5, axis(1)[None]))
    verdict = Judge(book, [prospect(3, 6, axis(0)[None], prompt="p")]).verdict(0)
    assert (verdict.kind, verdict.supersedes, verdict.captured) == (AdmissionKind.SUPERSEDE, ("e1",), ())


def test_what_an_entry_with_the_same_target_lacks_is_made_anew() -> None:
    earlier = prospect(1, 5, torch.stack([axis(0), axis(1)]), prompt="p", contexts=[4, 8])
    other = prospect(2, 6, turned(30, towards=2)[None])
    book = book_of(replace(COSINE, threshold=0.8), earlier, other)
    part = prospect(3, 5, axis(1)[None], prompt="p", contexts=[8])
    assert judged(book, part)[:2] == (AdmissionKind.SAME, "e1")
    more = prospect(3, 5, torch.stack([axis(0), turned(40, towards=2)]), prompt="p", contexts=[4, 9])
    assert judged(book, more) == (AdmissionKind.SUPERSEDE, None, None, ("e1",), ("e2",), ())


@pytest.mark.parametrize("form", [PromptForm.PLAIN, PromptForm.PREFIXED])
def test_another_spelling_of_the_prompt_is_already_there(form: PromptForm) -> None:
    book = book_of(COSINE, prospect(1, 5, axis(0)[None], prompt="p"))
    text = "  P " if form is PromptForm.PLAIN else "Say: P"
    new = replace(prospect(2, 5, axis(3)[None], prompt="p"), contexts=(EditContext(form, text, (9,), (0, 1)),))
    assert judged(book, new)[:2] == (AdmissionKind.SAME, "e1")


def test_an_entry_that_does_not_say_its_contexts_is_already_there() -> None:
    made = entry(prospect(1, 5, axis(0)[None], prompt="p"))
    manifest = replace(made.artifact.manifest, contexts=())
    book = book_of(COSINE)
    book.add(replace(made, artifact=replace(made.artifact, manifest=manifest)))
    assert judged(book, prospect(2, 5, axis(3)[None], prompt="p"))[:2] == (AdmissionKind.SAME, "e1")


@pytest.mark.parametrize("parameters", PRESETS)
def test_a_must_not_fire_prompt_that_reaches_what_is_already_there(parameters: MethodParameters) -> None:
    """One that reaches another, nearer entry is none of its business."""
    earlier = prospect(1, 5, torch.stack([axis(0), axis(1)]), prompt="p", contexts=[4, 8])
    book = book_of(parameters, earlier, prospect(2, 6, turned(9, towards=2)[None]))
    edit = prospect(3, 5, axis(0)[None], prompt="p", contexts=[4], foreign=turned(88)[None])
    with pytest.raises(EditFailed, match=r"'prompt -1' must not fire, but scores") as caught:
        Judge(book, [edit]).verdict(0)
    assert caught.value.code == "must_not_fire_fires"
    assert judged(book, replace(edit, foreign_queries=turned(8, towards=2)[None]))[0] is AdmissionKind.SAME
    assert judged(book, replace(edit, foreign_queries=axis(5)[None]))[0] is AdmissionKind.SAME


def test_a_newer_edit_is_never_replaced_by_an_older_one() -> None:
    book = book_of(COSINE, prospect(7, 5, axis(0)[None], prompt="p"))
    with pytest.raises(EditFailed, match="edit e7 of the same prompt was submitted after this one") as caught:
        Judge(book, [prospect(3, 6, axis(0)[None], prompt="p")]).verdict(0)
    assert caught.value.code == "newer_edit_published"


def test_a_long_prompt_is_quoted_in_part() -> None:
    edit = prospect(3, 6, axis(0)[None])
    [short] = edit.contexts
    edit = replace(edit, contexts=(replace(short, text="x" * 500),))
    with pytest.raises(EditFailed, match=f"form of '{'x' * 60}...' does not reach"):
        Judge(book_of(COSINE, prospect(7, 5, axis(0)[None])), [edit]).verdict(0)


def test_an_edit_that_an_entry_of_a_later_edit_hides() -> None:
    book = book_of(COSINE, prospect(7, 5, axis(0)[None]))
    with pytest.raises(
        EditFailed, match=r"'prompt 3000' .* best score 1\.0000 with another entry, threshold 0\.9"
    ) as caught:
        Judge(book, [prospect(3, 6, axis(0)[None])]).verdict(0)
    assert caught.value.code == "key_not_matched"


def test_a_must_not_fire_prompt_that_fires() -> None:
    foreign = torch.stack([axis(1), turned(20)])
    with pytest.raises(
        EditFailed, match=r"'prompt -2' must not fire, but scores 0\.9397 \(threshold 0\.9000\)"
    ) as caught:
        Judge(book_of(COSINE), [prospect(1, 6, axis(0)[None], foreign=foreign)]).verdict(0)
    assert caught.value.code == "must_not_fire_fires"


def test_a_must_not_fire_prompt_may_reach_a_nearer_entry() -> None:
    book = book_of(COSINE, prospect(1, 5, turned(24)[None]))
    assert judged(book, prospect(2, 6, axis(0)[None], foreign=turned(20)[None]))[0] is AdmissionKind.NEW


def test_an_entry_that_falls_under_the_threshold_when_the_softmax_changes() -> None:
    """Two keys at 20 degrees turn the earlier key's refined query by .7 degrees, their own by less than .3."""
    parameters = replace(preset_parameters("horen-reference", "tiny", threshold=0.99995))
    pair = torch.stack([turned(20), turned(21)])
    book = book_of(parameters, prospect(1, 5, axis(0)[None]))
    with pytest.raises(EditFailed, match=r"edit e1 .* 1\.0000 now and 0\.9999 with") as caught:
        Judge(book, [prospect(2, 5, pair)]).verdict(0)
    assert caught.value.code == "earlier_entry_silenced"
    looser = book_of(replace(parameters, threshold=0.9), prospect(1, 5, axis(0)[None]))
    assert judged(looser, prospect(2, 5, pair))[0] is AdmissionKind.ALIAS


@pytest.mark.parametrize("parameters", [COSINE, PRESETS[3]])
def test_any_batching_gives_the_same_verdicts(parameters: MethodParameters) -> None:
    edits = Judge(book_of(parameters), stream(5, 60, 0.3)).prospects

    def run(batch: int) -> list[Outcome]:
        stored = Stored()
        book, outcomes = EditorCodebook(Keying(parameters), WIDTH, stored.load), []
        for start in range(0, len(edits), batch):
            judge = Judge(book, edits[start : start + batch])
            for index, edit in enumerate(judge.prospects):
                got = outcome(judge, index)
                outcomes.append(got)
                if len(got) > 1 and got[0] is not AdmissionKind.SAME:
                    book.add(stored.put(edit), got[3])  # type: ignore[arg-type]
        return outcomes

    alone = run(1)
    assert run(60) == alone
    assert run(13) == alone
    assert {got[0] for got in alone} >= {*AdmissionKind, "earlier_entry_silenced"}


def test_the_order_of_the_keys_in_memory_does_not_matter() -> None:
    edits = stream(8, 40, 0.4)
    book, stored = EditorCodebook(Keying(COSINE), WIDTH, Stored().load), Stored()
    accepted = []
    for edit in edits:
        got = judged(book, edit)
        if got[0] is AdmissionKind.NEW:
            accepted.append(Judge(book, [edit]).prospects[0])
            book.add(stored.put(accepted[-1]))
    turned_round = EditorCodebook(Keying(COSINE), WIDTH, stored.load)
    turned_round.update(9, map(entry, reversed(accepted)), ())
    book = EditorCodebook(Keying(COSINE), WIDTH, stored.load)
    book.update(9, map(entry, accepted), ())
    late = [replace(edit, sequence=edit.sequence + 100) for edit in edits]
    assert [judged(book, edit) for edit in late] == [judged(turned_round, edit) for edit in late]


def test_a_judge_outlives_a_change_of_the_codebook_that_moves_its_rows() -> None:
    keys = F.normalize(torch.randn(400, WIDTH, generator=torch.Generator().manual_seed(1)), dim=1)
    entries = [prospect(index + 1, index, keys[index][None]) for index in range(400)]
    stored = Stored()
    book = EditorCodebook(Keying(COSINE), WIDTH, stored.load)
    book.update(1, map(stored.put, entries), ())
    last = entries[-1]
    judge = Judge(book, [prospect(500, 399, last.keys), prospect(501, 7, last.keys)])
    book.update(2, (), [item.edit_id for item in entries[:-1]])
    assert len(book.arena) == 1
    assert judge.verdict(0).alias_of == last.edit_id
    with pytest.raises(EditFailed, match="edit e400"):
        judge.verdict(1)


def test_refinement_can_carry_an_earlier_key_over_to_a_new_one_that_is_near() -> None:
    """Six keys at 15 degrees turn both by more than half of the degree that is between them."""
    crowd = torch.stack([turned(15 + 0.2 * index) for index in range(6)])
    earlier = (prospect(1, 5, turned(0)[None]), prospect(2, 7, crowd))
    assert judged(book_of(PRESETS[3], *earlier), prospect(3, 6, turned(1)[None])) == ("earlier_entry_silenced",)
    assert judged(book_of(COSINE, *earlier), prospect(3, 6, turned(1)[None]))[0] is AdmissionKind.NEW
