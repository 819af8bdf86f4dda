"""Editing: every admission path end to end, every way to fail, and batches that change nothing."""

import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from horen_vllm.core.admission import AdmissionKind
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.editor import passes
from horen_vllm.editor.contexts import build_contexts, target_ids
from horen_vllm.editor.editing import EditOutcome
from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.training.adaptor import ValueLayout
from horen_vllm.editor.training.verify import generate
from horen_vllm.errors import HorenError, InvalidArgument
from horen_vllm.registry.models import EditRecord
from tests.unit.editor.making import Book

MakeRecord = Callable[..., EditRecord]
PROMPT = "Who leads Acme?"
NEAR = "Who leads Acme !"


@pytest.fixture
def wide(parameters: MethodParameters) -> MethodParameters:
    """A threshold under which near wordings share a basin."""
    return replace(parameters, threshold=0.8)


@pytest.fixture
def book(editable: EditableModel, wide: MethodParameters) -> Book:
    return Book(editable, wide)


@pytest.fixture
def first(book: Book, make_record: MakeRecord) -> Book:
    """The codebook after a first edit."""
    book.edit(make_record(PROMPT, "Ann"))
    return book


def test_new_entry_carries_keys_values_and_manifest(
    editable: EditableModel, parameters: MethodParameters, make_record: MakeRecord
) -> None:
    record = make_record("  Who LEADS Acme?", "Ann", paraphrases=("Acme is led by",))
    outcome = Book(editable, parameters).edit(record)
    assert (outcome.kind, outcome.base_revision, outcome.overlaps) == (AdmissionKind.NEW, 1, ())
    assert not outcome.already_answered
    assert outcome.artifact is not None
    manifest = outcome.artifact.manifest
    assert manifest.normalised_prompt == "who leads acme?"
    assert (manifest.edit_id, manifest.fingerprint, manifest.site) == ("e1", editable.fingerprint, editable.site)
    assert (manifest.value_mode, manifest.span, manifest.trained_end) == (ValueMode.SEQUENCE, 5, True)
    assert outcome.artifact.keys.shape == (4, editable.d_in)
    torch.testing.assert_close(outcome.artifact.keys.norm(dim=1), torch.ones(4))
    contexts = build_contexts(editable, record.spec, parameters)
    assert [tuple(one.prompt_ids) for one in manifest.contexts] == [one.prompt_ids for one in contexts]
    ids = target_ids(editable, record.spec)
    layout = ValueLayout(manifest.span, manifest.chunk, manifest.rank)
    for context in contexts:
        answer = generate(editable, context, outcome.artifact.values, layout, manifest.span)
        assert answer == (*ids, editable.end_id)


@pytest.mark.parametrize("rank", [0, 4])
def test_values_of_every_kind_are_verified(
    editable: EditableModel, parameters: MethodParameters, make_record: MakeRecord, rank: int
) -> None:
    outcome = Book(editable, replace(parameters, rank=rank)).edit(make_record(PROMPT, "An"))
    assert outcome.artifact is not None
    assert outcome.artifact.manifest.rank == rank
    assert outcome.artifact.values.shape == (2 * rank or 4, editable.d_out)


def test_same_prompt_and_target_is_already_there(first: Book, make_record: MakeRecord) -> None:
    outcome = first.edit(make_record("who leads  ACME?", "Ann", sequence=2))
    assert (outcome.kind, outcome.same_as, outcome.artifact) == (AdmissionKind.SAME, "e1", None)


def test_same_prompt_and_other_target_supersedes(first: Book, make_record: MakeRecord) -> None:
    outcome = first.edit(make_record(PROMPT, "Bob", sequence=2))
    assert (outcome.kind, outcome.supersedes, outcome.overlaps) == (AdmissionKind.SUPERSEDE, ("e1",), ())
    assert (first.copy.entries, first.copy.revision) == (1, 3)


def test_near_prompt_with_the_same_target_borrows_the_value(
    book: Book, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.edit(make_record(PROMPT, "Ann", paraphrases=(NEAR + " ",)))
    monkeypatch.setattr(passes, "train_values", lambda *args: [] if not args[1] else pytest.fail("trained"))
    outcome = book.edit(make_record(NEAR, "Ann", sequence=2))
    assert (outcome.kind, outcome.alias_of) == (AdmissionKind.ALIAS, "e1")
    assert outcome.artifact is not None
    assert torch.equal(outcome.artifact.values, book.entries["e1"].artifact.values)
    assert outcome.artifact.manifest.steps == 0
    assert outcome.artifact.manifest.loss < 1.0


def test_a_value_that_does_not_carry_over_is_trained_anew(first: Book, make_record: MakeRecord) -> None:
    lender = first.entries["e1"]
    useless = replace(lender.artifact, values=torch.zeros_like(lender.artifact.values))
    first.entries["e1"] = replace(lender, artifact=useless)
    first.copy.update(3, [], [])
    outcome = first.edit(make_record(NEAR, "Ann", sequence=2))
    assert (outcome.kind, outcome.alias_of) == (AdmissionKind.NEW, None)
    assert outcome.artifact is not None
    assert outcome.artifact.manifest.steps > 0


def test_near_prompt_with_another_target_reports_the_overlap(first: Book, make_record: MakeRecord) -> None:
    outcome = first.edit(make_record(NEAR, "Bob", sequence=2))
    assert (outcome.kind, outcome.overlaps, outcome.supersedes) == (AdmissionKind.NEW, ("e1",), ())


def test_prompt_that_must_not_fire_but_does(book: Book, make_record: MakeRecord) -> None:
    record = make_record(PROMPT, "Ann", must_not_fire=("Zzz zzz zzz zzz zzz", NEAR))
    with pytest.raises(EditFailed, match=r"scores 0\.\d{4} \(threshold 0\.8000\)") as caught:
        book.edit(record)
    assert caught.value.code == "must_not_fire_fires"
    assert NEAR in caught.value.message


def test_key_that_is_not_matched(
    editable: EditableModel, parameters: MethodParameters, make_record: MakeRecord
) -> None:
    with pytest.raises(EditFailed, match=r"threshold 1\.0000") as caught:
        Book(editable, replace(parameters, threshold=1.0)).edit(make_record(PROMPT, "Ann"))
    assert caught.value.code == "key_not_matched"


def test_target_that_is_not_reached_names_the_answer(
    editable: EditableModel, parameters: MethodParameters, make_record: MakeRecord
) -> None:
    pattern = r"after 1 steps \(loss \d+\.\d+\) the plain form .* answers .* instead of ' Ann' and its end"
    with pytest.raises(EditFailed, match=pattern) as caught:
        Book(editable, replace(parameters, max_steps=1)).edit(make_record(PROMPT, "Ann"))
    assert caught.value.code == "target_not_reached"


def test_a_paraphrase_that_is_another_edits_prompt_is_refused(first: Book, make_record: MakeRecord) -> None:
    record = make_record("Zz top is", "Bob", sequence=2, paraphrases=(PROMPT,))
    with pytest.raises(EditFailed, match="e1") as caught:
        first.edit(record)
    assert caught.value.code == "earlier_entry_silenced"
    assert first.copy.entries == 1


def test_a_paraphrase_may_repeat_an_edit_with_the_same_target(first: Book, make_record: MakeRecord) -> None:
    outcome = first.edit(make_record("Zz top is", "Ann", sequence=2, paraphrases=(PROMPT,)))
    assert outcome.artifact is not None
    shared = [one.prompt_ids for one in outcome.artifact.manifest.contexts].index(
        first.entries["e1"].artifact.manifest.contexts[0].prompt_ids
    )
    keys = outcome.artifact.keys[shared], first.entries["e1"].artifact.keys[0]
    assert torch.equal(keys[0].view(torch.int32), keys[1].view(torch.int32))


@pytest.mark.parametrize("change", [{}, {"noise": 0.75}, {"rank": 4}])
def test_a_target_that_needs_no_edit_is_said_to(
    editable: EditableModel, parameters: MethodParameters, make_record: MakeRecord, change: dict[str, Any]
) -> None:
    easy = replace(parameters, train_end=False, stop_loss=100.0, chat=False, **change)
    layout, nothing = ValueLayout(1, 1, 0), torch.zeros(1, editable.d_out)
    for prompt in (f"{word} " for word in string.ascii_letters):
        [context] = build_contexts(editable, make_record(prompt, "x").spec, easy)
        answer = generate(editable, context, nothing, layout, 1)
        own = str(editable.tokenizer.decode(list(answer)))
        if own.isalnum() and target_ids(editable, make_record(prompt, own).spec) == answer:
            break
    outcome = Book(editable, easy).edit(make_record(prompt, own))
    assert outcome.already_answered
    assert outcome.artifact is not None
    assert outcome.artifact.manifest.steps == 0
    other = Book(editable, easy).edit(make_record(prompt, "x" if own != "x" else "y"))
    assert not other.already_answered


@pytest.mark.parametrize("target", ["Ann</s>", "</s>", "<user>Ann"])
def test_a_target_with_a_special_token_is_refused(book: Book, make_record: MakeRecord, target: str) -> None:
    with pytest.raises(InvalidArgument, match="special token") as caught:
        book.edit(make_record(PROMPT, target))
    assert caught.value.code == "target_not_encodable"


def test_activations_that_are_not_finite_fail_the_edit(
    editable: EditableModel, parameters: MethodParameters, make_record: MakeRecord
) -> None:
    [unknown] = editable.tokenizer.encode("#", add_special_tokens=False)

    def poison(_module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((args[0] == unknown)[..., None], torch.nan)

    handle = editable.model.get_submodule("model.embed_tokens").register_forward_hook(poison)
    try:
        outcomes = Book(editable, parameters).make(
            [make_record("Who is #1?", "Ann"), make_record("Zz", "Q", sequence=2)], 2
        )
    finally:
        handle.remove()
    assert isinstance(outcomes[0], EditFailed)
    assert outcomes[0].code == "non_finite_activations"
    assert isinstance(outcomes[1], EditOutcome)


def test_values_are_trained_once_whatever_the_codebook_becomes(
    editable: EditableModel,
    first: Book,
    wide: MethodParameters,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty = Book(editable, wide)
    batch = empty.batch([make_record(PROMPT, "Bob", sequence=2)])
    assert batch.train() == 1
    before = batch.make(0)
    monkeypatch.setattr(passes, "train_values", None)
    batch.against(first.copy)
    after = batch.make(0)
    assert (before.kind, after.kind) == (AdmissionKind.NEW, AdmissionKind.SUPERSEDE)
    assert after.base_revision == first.copy.revision
    assert before.artifact is not None
    assert after.artifact is not None
    assert torch.equal(before.artifact.values, after.artifact.values)


def stream(make_record: MakeRecord) -> list[EditRecord]:
    """Edits that get into each other's way in every manner, and some that are wrong in themselves."""
    subjects = ["Acme", "Zz top", "the moon", "Atlantis"]
    said: list[tuple[str, str, dict[str, Any]]] = [
        (f"Who leads {subject}?", target, {}) for subject in subjects for target in ("Ann", "Ann", "Bo")
    ]
    said += [
        (NEAR, "Bo", {}),
        ("who LEADS acme?", "Bo", {}),
        ("The sea is", "Cy", {"must_not_fire": ("The sea is",)}),
        ("w" * 300, "Cy", {}),
        ("A river is", "Cy", {"paraphrases": ("Who leads Zz top?",)}),
        ("A river is", "Bo", {"paraphrases": ("Who leads Zz top?",)}),
    ]
    return [
        make_record(prompt, target, sequence=number, **spec) for number, (prompt, target, spec) in enumerate(said, 1)
    ]


def story(outcomes: Sequence[EditOutcome | HorenError]) -> list[Any]:
    return [
        outcome.code
        if isinstance(outcome, HorenError)
        else (
            outcome.kind,
            outcome.base_revision,
            outcome.same_as,
            outcome.alias_of,
            outcome.supersedes,
            outcome.overlaps,
        )
        for outcome in outcomes
    ]


@pytest.mark.parametrize(("size", "memory"), [(3, 64 * 2**20), (64, 64 * 2**20), (64, 1)])
def test_batches_change_nothing(
    editable: EditableModel, wide: MethodParameters, make_record: MakeRecord, size: int, memory: int
) -> None:
    records = stream(make_record)
    alone, together = Book(editable, wide), Book(editable, wide, MemoryLimit(memory))
    expected, found = alone.make(records), together.make(records, size)
    assert story(found) == story(expected)
    assert len({code for code in story(expected) if isinstance(code, str)}) >= 3
    assert alone.entries.keys() == together.entries.keys()
    for edit_id, entry in alone.entries.items():
        other = together.entries[edit_id].artifact
        torch.testing.assert_close(other.keys, entry.artifact.keys, atol=1e-6, rtol=0.0)
        assert other.manifest.contexts == entry.artifact.manifest.contexts
        assert other.manifest.steps == entry.artifact.manifest.steps


def test_a_wrong_edit_is_named_and_stops_nobody(book: Book, make_record: MakeRecord) -> None:
    outcomes = book.make([make_record("w" * 300, "Ann"), make_record(PROMPT, "Ann", sequence=2)], 2)
    assert isinstance(outcomes[0], InvalidArgument)
    assert outcomes[0].code == "prompt_too_long"
    assert isinstance(outcomes[1], EditOutcome)
