"""Editing: every admission path end to end, and every way to fail."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from horen_vllm.core.admission import AdmissionKind
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.editor import editing
from horen_vllm.editor.codebook import CodebookState, Entry
from horen_vllm.editor.contexts import build_contexts, target_ids
from horen_vllm.editor.editing import EditOutcome, EditSession, edit
from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.model import EditableModel
from horen_vllm.editor.verify import reaches_target
from horen_vllm.registry.models import EditRecord, EntryRef

MakeRecord = Callable[..., EditRecord]
PROMPT = "Who leads Acme?"
NEAR = "Who leads Acme !"


def extended(state: CodebookState, record: EditRecord, outcome: EditOutcome) -> CodebookState:
    assert outcome.artifact is not None
    digest = f"{record.sequence:064x}"
    ref = EntryRef(edit_id=record.edit_id, sequence=record.sequence, artifact=digest)
    kept = [entry for entry in state.entries if entry.ref.edit_id not in outcome.supersedes]
    return CodebookState(state.revision + 1, (*kept, Entry(ref, outcome.artifact)))


@pytest.fixture
def wide(parameters: MethodParameters) -> MethodParameters:
    """A threshold under which near wordings share a basin."""
    return replace(parameters, threshold=0.8)


@pytest.fixture
def first(editable: EditableModel, wide: MethodParameters, make_record: MakeRecord) -> CodebookState:
    record = make_record(PROMPT, "Ann")
    return extended(CodebookState(1), record, edit(editable, CodebookState(1), record, wide))


def test_new_entry_carries_keys_values_and_manifest(
    editable: EditableModel, parameters: MethodParameters, make_record: MakeRecord
) -> None:
    record = make_record("  Who LEADS Acme?", "Ann", paraphrases=("Acme is led by",))
    outcome = edit(editable, CodebookState(4), record, parameters)
    assert (outcome.kind, outcome.base_revision, outcome.overlaps) == (AdmissionKind.NEW, 4, ())
    assert outcome.artifact is not None
    manifest = outcome.artifact.manifest
    assert manifest.normalised_prompt == "who leads acme?"
    assert (manifest.edit_id, manifest.fingerprint, manifest.site) == ("e1", editable.fingerprint, editable.site)
    assert (manifest.value_mode, manifest.span, manifest.trained_end) == (ValueMode.SEQUENCE, 5, True)
    assert outcome.artifact.keys.shape == (4, editable.d_in)
    torch.testing.assert_close(outcome.artifact.keys.norm(dim=1), torch.ones(4))
    contexts, ids = build_contexts(editable, record.spec, parameters), target_ids(editable, record.spec)
    assert ids == manifest.target_ids
    assert reaches_target(editable, contexts, ids, outcome.artifact.values, parameters)


def test_same_prompt_and_target_is_already_there(
    editable: EditableModel, wide: MethodParameters, make_record: MakeRecord, first: CodebookState
) -> None:
    outcome = edit(editable, first, make_record("who leads  ACME?", "Ann", sequence=2), wide)
    assert (outcome.kind, outcome.same_as, outcome.artifact) == (AdmissionKind.SAME, "e1", None)


def test_same_prompt_and_other_target_supersedes(
    editable: EditableModel, wide: MethodParameters, make_record: MakeRecord, first: CodebookState
) -> None:
    record = make_record(PROMPT, "Bob", sequence=2)
    outcome = edit(editable, first, record, wide)
    assert (outcome.kind, outcome.supersedes, outcome.overlaps) == (AdmissionKind.SUPERSEDE, ("e1",), ())
    assert len(extended(first, record, outcome).entries) == 1


def test_near_prompt_with_the_same_target_borrows_the_value(
    editable: EditableModel, wide: MethodParameters, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(PROMPT, "Ann", paraphrases=(NEAR,))
    state = extended(CodebookState(1), record, edit(editable, CodebookState(1), record, wide))
    monkeypatch.setattr(editing, "train_value", None)
    outcome = edit(editable, state, make_record(NEAR, "Ann", sequence=2), wide)
    assert (outcome.kind, outcome.alias_of) == (AdmissionKind.ALIAS, "e1")
    assert outcome.artifact is not None
    assert torch.equal(outcome.artifact.values, state.entries[0].artifact.values)
    assert outcome.artifact.manifest.steps == 0
    assert outcome.artifact.manifest.loss < 1.0


def test_a_value_that_does_not_carry_over_is_trained_anew(
    editable: EditableModel, wide: MethodParameters, make_record: MakeRecord, first: CodebookState
) -> None:
    lender = first.entries[0]
    useless = replace(lender.artifact, values=torch.zeros_like(lender.artifact.values))
    state = replace(first, entries=(replace(lender, artifact=useless),))
    outcome = edit(editable, state, make_record(NEAR, "Ann", sequence=2), wide)
    assert (outcome.kind, outcome.alias_of) == (AdmissionKind.NEW, None)
    assert outcome.artifact is not None
    assert outcome.artifact.manifest.steps > 0


def test_near_prompt_with_another_target_reports_the_overlap(
    editable: EditableModel, wide: MethodParameters, make_record: MakeRecord, first: CodebookState
) -> None:
    outcome = edit(editable, first, make_record(NEAR, "Bob", sequence=2), wide)
    assert (outcome.kind, outcome.overlaps, outcome.supersedes) == (AdmissionKind.NEW, ("e1",), ())


def test_prompt_that_must_not_fire_but_does(
    editable: EditableModel, wide: MethodParameters, make_record: MakeRecord
) -> None:
    record = make_record(PROMPT, "Ann", must_not_fire=("Zzz zzz zzz zzz zzz", NEAR))
    with pytest.raises(EditFailed, match=r"scores 0\.\d{4} \(threshold 0\.8000\)") as caught:
        edit(editable, CodebookState(1), record, wide)
    assert caught.value.code == "must_not_fire_fires"
    assert NEAR in caught.value.message


def test_key_that_is_not_matched(
    editable: EditableModel, parameters: MethodParameters, make_record: MakeRecord
) -> None:
    unreachable = replace(parameters, threshold=1.0)
    with pytest.raises(EditFailed, match=r"threshold 1\.0000") as caught:
        edit(editable, CodebookState(1), make_record(PROMPT, "Ann"), unreachable)
    assert caught.value.code == "key_not_matched"


def test_target_that_is_not_reached(
    editable: EditableModel, parameters: MethodParameters, make_record: MakeRecord
) -> None:
    with pytest.raises(EditFailed) as caught:
        edit(editable, CodebookState(1), make_record(PROMPT, "Ann"), replace(parameters, max_steps=1))
    assert caught.value.code == "target_not_reached"


def test_a_session_trains_once_for_many_revisions(
    editable: EditableModel,
    wide: MethodParameters,
    make_record: MakeRecord,
    first: CodebookState,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = EditSession(editable, make_record(PROMPT, "Bob", sequence=2), wide)
    before = session.against(CodebookState(1))
    monkeypatch.setattr(editing, "train_value", None)
    after = session.against(first)
    assert (before.kind, after.kind) == (AdmissionKind.NEW, AdmissionKind.SUPERSEDE)
    assert after.base_revision == first.revision
    assert before.artifact is not None
    assert after.artifact is not None
    assert torch.equal(before.artifact.values, after.artifact.values)
