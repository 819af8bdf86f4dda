"""Admission: the upsert rules of the design, on exact token ids."""

import pytest
import torch

from horen_vllm.core.admission import AdmissionKind, Candidate, Existing, admission, admit, normalise_prompt
from horen_vllm.core.match import KeyTable
from horen_vllm.core.presets import MethodParameters

PARAMETERS = MethodParameters(preset="cosine", threshold=0.8)
EXISTING = (
    Existing("e1", 1, "capital of a?", (7, 8)),
    Existing("e2", 2, "capital of b?", (9,)),
)
TABLE = KeyTable(torch.eye(4)[:2], torch.tensor([0, 1]), torch.tensor([1, 2]))


def candidate(prompt: str, target: tuple[int, ...], *axes: int) -> Candidate:
    return Candidate(normalise_prompt(prompt), target, torch.eye(4)[list(axes)])


def test_prompts_are_compared_without_case_width_or_spacing() -> None:
    assert normalise_prompt("  Capital\tof \uff21? ") == "capital of a?"


def test_same_prompt_same_target_is_already_there() -> None:
    verdict = admit(candidate("Capital of A?", (7, 8), 0), EXISTING, TABLE, PARAMETERS)
    assert (verdict.kind, verdict.entry) == (AdmissionKind.SAME, 0)


def test_same_prompt_other_target_supersedes() -> None:
    verdict = admit(candidate("capital of a?", (8, 7), 0), EXISTING, TABLE, PARAMETERS)
    assert (verdict.kind, verdict.supersedes, verdict.overlaps) == (AdmissionKind.SUPERSEDE, (0,), ())


def test_what_lacks_a_key_of_the_edit_is_superseded_by_the_same_target() -> None:
    existing = {7: Existing("e2", 7, "p", (9,)), 8: Existing("e3", 8, "q", (5,))}
    verdict = admission((9,), existing, [7], lambda: [7, 8], lambda entry: entry != 7)
    assert (verdict.kind, verdict.supersedes, verdict.overlaps) == (AdmissionKind.SUPERSEDE, (7,), (8,))


def test_other_prompt_same_basin_same_target_is_an_alias() -> None:
    verdict = admit(candidate("a's capital", (7, 8), 0, 3), EXISTING, TABLE, PARAMETERS)
    assert (verdict.kind, verdict.entry) == (AdmissionKind.ALIAS, 0)


def test_other_prompt_same_basin_other_target_is_new_and_reported() -> None:
    verdict = admit(candidate("a's capital", (5,), 0, 1, 3), EXISTING, TABLE, PARAMETERS)
    assert (verdict.kind, verdict.overlaps) == (AdmissionKind.NEW, (0, 1))


def test_far_prompt_is_new() -> None:
    verdict = admit(candidate("unrelated", (7, 8), 3), EXISTING, TABLE, PARAMETERS)
    assert (verdict.kind, verdict.overlaps) == (AdmissionKind.NEW, ())


def test_empty_codebook_admits() -> None:
    empty = KeyTable(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert admit(candidate("x", (1,), 0), (), empty, PARAMETERS).kind is AdmissionKind.NEW


def test_basins_are_not_asked_for_when_the_edit_is_already_there() -> None:
    verdict = admission((9,), {7: Existing("e2", 7, "p", (9,))}, [7], pytest.fail)
    assert (verdict.kind, verdict.entry) == (AdmissionKind.SAME, 7)


def test_a_verdict_speaks_of_entries_by_the_given_numbers() -> None:
    entries = {7: Existing("e7", 7, "p", (9,)), 12: Existing("e12", 12, "q", (8,)), 30: Existing("e30", 30, "r", (9,))}
    verdict = admission((8,), entries, [7], lambda: [30, 7, 12])
    assert (verdict.kind, verdict.supersedes, verdict.overlaps) == (AdmissionKind.SUPERSEDE, (7,), (30,))
    verdict = admission((9,), entries, [], lambda: [30, 7])
    assert (verdict.kind, verdict.entry) == (AdmissionKind.ALIAS, 30)
