"""Floors: what keeps must-not-fire prompts silent where the threshold follows the keys and may come down."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.artifact import EntryArtifact
from horen_vllm.core.admission import AdmissionKind
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.codebook.arena import NOBODY
from horen_vllm.editor.codebook.book import EditorCodebook, Entry
from horen_vllm.editor.codebook.false_fires import FLOOR_MARGIN
from horen_vllm.editor.codebook.judge import Judge
from horen_vllm.editor.codebook.lineup import Lineup
from horen_vllm.editor.codebook.prospect import Prospect, Verdict
from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.keying import Keying
from tests.unit.editor.plain_judge import COSINE, PRESETS, WIDTH, Stored, axis, entry, prospect, stream, turned

BACKGROUND = F.normalize(torch.randn(80, WIDTH, generator=torch.Generator().manual_seed(9)), dim=1)


def followed(parameters: MethodParameters) -> MethodParameters:
    return replace(parameters, threshold=0.0, background="b", false_fire_rate=0.05)


def book_of(parameters: MethodParameters, *entries: Prospect) -> EditorCodebook:
    book = EditorCodebook(Keying(followed(parameters)), WIDTH, Stored().load, background=BACKGROUND)
    for it in entries:
        add(book, it, None)
    return book


def add(book: EditorCodebook, new: Prospect, verdict: Verdict | None) -> None:
    made = entry(new)
    if verdict is None:
        book.add(made)
        return
    manifest = replace(made.artifact.manifest, floor=verdict.floor)
    artifact = EntryArtifact(keys=new.keys, values=made.artifact.values, manifest=manifest)
    book.add(Entry(made.ref, artifact), verdict.supersedes, verdict.threshold)


def played(parameters: MethodParameters, edits: list[Prospect], batch: int) -> tuple[list[object], EditorCodebook]:
    book, found = book_of(parameters), list[object]()
    for start in range(0, len(edits), batch):
        judge = Judge(book, edits[start : start + batch])
        for index, new in enumerate(judge.prospects):
            try:
                verdict = judge.verdict(index)
            except EditFailed as exc:
                found.append(exc.code)
                continue
            found.append(verdict)
            if verdict.kind is not AdmissionKind.SAME:
                add(book, new, verdict)
    return found, book


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), parameters=st.sampled_from([COSINE, PRESETS[3]]))
def test_batches_change_neither_floors_nor_thresholds(seed: int, parameters: MethodParameters) -> None:
    edits = list(Judge(book_of(parameters), stream(seed, 40, 0.4)).prospects)
    alone, book = played(parameters, edits, 1)
    for batch in (9, 40):
        found, _ = played(parameters, edits, batch)
        for one, other in zip(alone, found, strict=True):
            if not isinstance(one, Verdict) or not isinstance(other, Verdict):
                assert one == other
                continue
            assert replace(one, floor=None) == replace(other, floor=None)
            assert other.floor == pytest.approx(one.floor, abs=1e-6)
    live = [it for it in edits if it.edit_id in book]
    assert book.false_fires is not None
    assert book.false_fires.threshold() == book_of(parameters, *live).false_fires.threshold()  # type: ignore[union-attr]


def test_a_prompt_that_scores_less_than_the_threshold_has_a_floor_too() -> None:
    crowd = [prospect(number, number, key[None]) for number, key in enumerate(BACKGROUND[::8], 1)]
    edit = prospect(20, 99, axis(0)[None], foreign=turned(60)[None])
    verdict = Judge(book_of(COSINE, *crowd), [edit]).verdict(0)
    assert verdict.threshold is not None
    assert verdict.floor == pytest.approx(0.5 + FLOOR_MARGIN, abs=1e-6)
    assert 0.0 < verdict.floor < verdict.threshold  # type: ignore[operator]
    book = book_of(COSINE, *crowd)
    add(book, edit, verdict)
    book.update(50, (), [it.edit_id for it in crowd], threshold=0.0)
    field = Lineup(book.arena, edit.keys, 21, {}, None, book.floors).now
    assert field.rule(torch.stack([turned(58), turned(60), turned(62)]), book.parameters).entry == [20, NOBODY, NOBODY]


def test_a_prompt_that_reaches_a_nearer_entry_leaves_no_floor() -> None:
    edit = prospect(2, 6, axis(0)[None], foreign=turned(30)[None])
    assert Judge(book_of(COSINE), [edit]).verdict(0).floor == pytest.approx(0.8660 + FLOOR_MARGIN, abs=1e-4)
    assert Judge(book_of(COSINE, prospect(1, 5, turned(50)[None])), [edit]).verdict(0).floor is None
    far = replace(edit, foreign_queries=turned(120)[None])
    assert Judge(book_of(COSINE), [far]).verdict(0).floor is None


def test_a_floor_must_leave_the_edits_own_prompts() -> None:
    edit = prospect(2, 6, axis(0)[None], foreign=turned(1)[None])
    with pytest.raises(EditFailed, match="as much as the edit's own prompts") as caught:
        Judge(book_of(COSINE), [edit]).verdict(0)
    assert caught.value.code == "must_not_fire_fires"
    # Refined towards a crowd, it scores 0.997 itself, and what stands on the other side of its key hardly less.
    pull = replace(PRESETS[3], gamma=0.3, steps=3)
    crowd = prospect(1, 5, torch.stack([turned(40 + 0.3 * number) for number in range(40)]))
    beyond = replace(edit, foreign_queries=turned(-16)[None])
    with pytest.raises(EditFailed, match="as much as the edit's own prompts"):
        Judge(book_of(pull, crowd), [beyond]).verdict(0)
    assert Judge(book_of(pull, crowd), [prospect(2, 6, axis(0)[None])]).verdict(0).kind is AdmissionKind.NEW
