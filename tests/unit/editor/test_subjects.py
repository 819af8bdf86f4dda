"""Subjects: verdicts are those of the plain rules, and an entry that leaves takes everything along."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.artifact import KeyContext
from horen_vllm.core.admission import AdmissionKind
from horen_vllm.editor.codebook.book import EditorCodebook
from horen_vllm.editor.codebook.false_fires import FLOOR_MARGIN
from horen_vllm.editor.codebook.judge import Judge
from horen_vllm.editor.codebook.prospect import Prospect
from horen_vllm.editor.codebook.subjects import SubjectRuling
from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.keying import Keying
from tests.unit.editor.spoken_judge import Outcome, Plain, outcome_of
from tests.unit.editor.spoken_world import MASKED, SUBJECTS, TEMPLATES, Files, World, space_of_words, stream

KEYINGS = (
    Keying(MASKED),
    Keying(MASKED, space_of_words()),
    Keying(replace(MASKED, mask_subject=False)),
    Keying(replace(MASKED, anchored_threshold=0.9, threshold=0.6)),
    Keying(replace(MASKED, window_ratio=0.3), space_of_words()),
)


def play(world: World, batch: int, length: int) -> list[Outcome]:
    """Judge edits both ways and add those that pass; now and then an entry leaves, and sometimes comes back."""
    files, plain, outcomes = Files(), Plain(world), []
    book, gone = world.book(files), []
    edits = stream(world, length)
    for start in range(0, length, batch):
        judge = Judge(book, edits[start : start + batch])
        for index, new in enumerate(judge.prospects):
            outcomes.append(told(judge, index))
            assert outcomes[-1] == plain.judged(new)
            if new in plain.live:
                floor = plain.floors.get(new.sequence)
                assert judge.verdict(index).floor == pytest.approx(floor, abs=1e-6)
                book.add(files.put(new, floor), outcomes[-1][3])  # type: ignore[arg-type]
            if new.sequence % 7 == 0 and plain.live:
                gone.append(plain.live.pop(new.sequence % len(plain.live)))
                book.update(book.revision + 1, (), [gone[-1].edit_id])
            if new.sequence % 14 == 0:
                back = gone.pop()
                plain.live.append(back)
                book.update(book.revision + 1, [files.put(back, plain.floors.get(back.sequence))], ())
    check_rulings(book, plain, edits)
    return outcomes


def told(judge: Judge, index: int) -> Outcome:
    try:
        return outcome_of(judge.verdict(index))
    except EditFailed as exc:
        return (exc.code,)


def check_rulings(book: EditorCodebook, plain: Plain, edits: Sequence[Prospect]) -> None:
    assert book.subjects is not None
    for context in {context for edit in edits for context in edit.contexts + edit.foreign}:
        ruling, expected = book.subjects.rule(context.as_key_context()), plain.anchored(context, plain.live)
        assert ruling.entry == (-1 if expected.fires is None else expected.fires.sequence)
        assert ruling.score == pytest.approx(expected.score, abs=1e-5)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), keying=st.sampled_from(KEYINGS), batch=st.sampled_from([1, 5, 40]))
def test_verdicts_are_those_of_the_plain_rules(seed: int, keying: Keying, batch: int) -> None:
    play(World(keying, seed), batch, 24)


def test_the_streams_meet_every_verdict() -> None:
    kinds = Counter(outcome[0] for seed in range(2) for outcome in play(World(KEYINGS[seed], seed), 40, 40))
    assert kinds.keys() >= {*AdmissionKind, "must_not_fire_fires", "key_not_matched", "earlier_entry_silenced"}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), keying=st.sampled_from(KEYINGS), data=st.data())
def test_an_entry_that_leaves_takes_everything_along(seed: int, keying: Keying, data: st.DataObject) -> None:
    world, files = World(keying, seed), Files()
    edits = stream(world, 10)
    entries = [files.put(it, 0.6 if it.sequence % 3 == 0 else None) for it in edits]
    kept = [entry for entry in entries if data.draw(st.booleans())]
    book, plain = world.book(files), world.book(files)
    for at in data.draw(st.permutations(range(len(entries)))):
        book.update(book.revision + 1, [entries[at]], ())
    # Judging leaves nothing behind, either.
    judge = Judge(book, [replace(it, sequence=it.sequence + 100) for it in edits])
    for index in range(len(edits)):
        told(judge, index)
    book.update(book.revision + 1, (), [it.ref.edit_id for it in entries if it not in kept])
    plain.update(1, kept, ())
    assert rulings(book, edits) == rulings(plain, edits)
    one, other = book.subjects, plain.subjects
    assert one is not None
    assert other is not None
    for name in ("_contexts", "_by_word"):
        assert getattr(one, name) == getattr(other, name)
    assert {name: set(holders) for name, holders in one._queries.items()} == {
        name: set(holders) for name, holders in other._queries.items()
    }
    assert one._entries.keys() == other._entries.keys()
    assert one._table._entries == other._table._entries
    for context in {context for edit in edits for context in edit.contexts}:
        keys = [it.anchored_key_of(context.as_key_context(), context.words) for it in (book, plain)]
        assert (keys[0] is None) == (keys[1] is None)
        assert keys[0] is None or torch.equal(keys[0], keys[1])  # type: ignore[arg-type]


def rulings(book: EditorCodebook, edits: Sequence[Prospect]) -> list[SubjectRuling]:
    assert book.subjects is not None
    return [book.subjects.rule(it.as_key_context()) for edit in edits for it in edit.contexts + edit.foreign]


@pytest.fixture
def world() -> World:
    return World(KEYINGS[1], 0)


def made(world: World, sequence: int, prompt: str, names: Sequence[str] = (), target: int = 5) -> Prospect:
    anchors = tuple(tuple(name.lower().split()) for name in names)
    context = world.context(prompt, anchors, own=True)
    [edit] = stream(world, 1)
    keys = world.ask([context.as_key_context()], [context.words])
    return replace(
        edit,
        edit_id=type(edit.edit_id)(f"e{sequence}"),
        sequence=sequence,
        normalised_prompt=prompt.lower(),
        target_ids=(target,),
        contexts=(context,),
        keys=keys,
        foreign=(),
        foreign_queries=torch.empty(0, keys.shape[1]),
        anchors=anchors,
    )


def with_foreign(world: World, edit: Prospect, *texts: str) -> Prospect:
    foreign = tuple(world.context(text, edit.anchors) for text in texts)
    queries = world.ask([it.as_key_context() for it in foreign], [it.words for it in foreign])
    return replace(edit, foreign=foreign, foreign_queries=queries)


def book_of(world: World, *edits: Prospect) -> EditorCodebook:
    book, files = world.book(Files()), Files()
    for edit in edits:
        book.add(files.put(edit, None))
    return book


def test_an_edit_without_a_subject_may_not_ask_for_anothers(world: World) -> None:
    book = book_of(world, made(world, 1, "Who runs Paris?", ["Paris"]))
    same = replace(made(world, 2, "Who runs Paris?"), normalised_prompt="q")
    with pytest.raises(EditFailed, match=r"names the subject of edit e1.*give this edit its subject, too") as caught:
        Judge(book, [same]).verdict(0)
    assert caught.value.code == "key_not_matched"
    assert Judge(book, [made(world, 2, "Who runs Rome?")]).verdict(0).kind is AdmissionKind.NEW


def test_a_subject_before_the_window_is_left_out_of_the_words_only(world: World) -> None:
    """No token tells the two masks apart, and yet they are two queries."""
    text = "Paris Hilton: tell me all that there is to be known"
    short, long = (made(world, number, text, [name]) for number, name in ((1, "Paris"), (2, "Paris Hilton")))
    assert short.contexts[0].masked == long.contexts[0].masked == ()
    assert short.contexts[0].words != long.contexts[0].words
    first, second = Judge(book_of(world), [short, replace(long, normalised_prompt="q")]).prospects
    assert not torch.equal(first.keys, second.keys)
    book = book_of(world, made(world, 3, text), short)
    [third] = Judge(book, [replace(long, sequence=4)]).prospects
    assert torch.equal(third.keys, long.keys)
    assert book.subjects is not None
    book.add(Files().put(third, None))
    ruling = book.subjects.rule(long.contexts[0].as_key_context())
    assert ruling.entry == 4
    assert ruling.score == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("held", "new", "kind"),
    [
        (["Paris"], ["Paris"], AdmissionKind.SAME),
        (["Paris", "Rome"], ["Rome", "Paris"], AdmissionKind.SAME),
        (["Paris", "Rome"], ["Paris"], AdmissionKind.SAME),
        (["Paris"], ["Paris", "Rome"], AdmissionKind.SUPERSEDE),
        ([], ["Paris"], AdmissionKind.SUPERSEDE),
        (["Paris"], [], AdmissionKind.SUPERSEDE),
    ],
)
def test_names_that_an_entry_lacks_are_made_anew(
    world: World, held: list[str], new: list[str], kind: AdmissionKind
) -> None:
    book = book_of(world, made(world, 1, "Who runs Paris?", held))
    assert Judge(book, [made(world, 2, "Who runs Paris?", new)]).verdict(0).kind is kind


def test_a_prompt_that_must_not_fire_is_kept_off_by_a_floor(world: World) -> None:
    first = made(world, 1, "Who runs Paris?", ["Paris"])
    edit = with_foreign(world, first, "Paris is run by")
    score = float(edit.foreign_queries @ first.keys.T)
    assert score > MASKED.anchored_threshold
    verdict = Judge(book_of(world), [edit]).verdict(0)
    assert verdict.floor == pytest.approx(score + FLOOR_MARGIN)
    with pytest.raises(EditFailed, match="must not fire, but scores") as caught:
        Judge(book_of(world), [with_foreign(world, first, "Who runs Paris?")]).verdict(0)
    assert caught.value.code == "must_not_fire_fires"


def test_a_floor_counts_what_the_superseded_entry_held_back(world: World) -> None:
    """The old entry has the very prompt as its key, but it leaves."""
    old = made(world, 1, "Paris is run by", ["Paris"])
    new = made(world, 2, "Who runs Paris?", ["Paris"], target=6)
    edit = with_foreign(world, replace(new, normalised_prompt=old.normalised_prompt), "Paris is run by")
    verdict = Judge(book_of(world, old), [edit]).verdict(0)
    assert verdict.supersedes == ("e1",)
    assert verdict.floor is not None
    assert verdict.floor > MASKED.anchored_threshold


def test_a_context_of_another_subject_may_be_taken_over_with_its_target(world: World) -> None:
    text = "Who runs Paris and Hilton?"
    book = book_of(world, made(world, 1, text, ["Paris"]), made(world, 2, "Who runs Rome?", target=6))
    verdict = Judge(book, [made(world, 3, text, ["Paris"], target=5)]).verdict(0)
    assert verdict.kind is AdmissionKind.SAME
    taker = replace(made(world, 3, text, ["Paris"]), normalised_prompt="q")
    verdict = Judge(book, [taker]).verdict(0)
    assert (verdict.kind, verdict.alias_of) == (AdmissionKind.ALIAS, "e1")
    assert [it.edit_id for it in verdict.captured] == ["e1"]
    assert verdict.captured[0].context == KeyContext(taker.contexts[0].prompt_ids, taker.contexts[0].span)
    with pytest.raises(EditFailed, match="edit e1 names this edit's subject") as caught:
        Judge(book, [replace(taker, target_ids=(7,))]).verdict(0)
    assert caught.value.code == "earlier_entry_silenced"


def test_judging_asks_the_model_once_for_a_query(world: World) -> None:
    book = book_of(world, made(world, 1, "Who runs Paris Hilton?", ["Paris Hilton"]))
    edit = made(world, 2, "Who runs Paris?", ["Paris"])
    world.asked = 0
    assert Judge(book, [edit]).verdict(0).kind is AdmissionKind.NEW
    # The earlier prompt without the new subject; every other query is some entry's or the edit's own.
    assert world.asked == 1


def test_every_subject_and_way_is_used() -> None:
    texts = {it.text for seed in range(8) for edit in stream(World(KEYINGS[0], seed), 30) for it in edit.contexts}
    assert len(texts) > 0.9 * len(SUBJECTS) * sum(map(len, TEMPLATES))
