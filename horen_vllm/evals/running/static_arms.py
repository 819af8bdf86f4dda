"""Saved codebooks as arms of a run that submits nothing: what their entries say of the edits of its stream."""

from collections.abc import Sequence
from typing import Final

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.evals.records import Case
from horen_vllm.evals.reporting.run_info import ArmInfo, EditOutcome
from horen_vllm.static import StaticCodebook

NO_ENTRY: Final = "no_entry"
"""Failure of an edit of the stream that the codebook has no entry for."""


def static_arm(model: str, codebook: StaticCodebook, cases: Sequence[Case]) -> ArmInfo:
    """Return a saved codebook as an arm, called as the codebook.

    The edit of a case is that of the entry with its prompt, as codebooks compare prompts: an edit takes the place of an
    earlier one with the same prompt, so no two entries have one.

    Parameters
    ----------
    model
        Name of the base model.
    cases
        The stream of edits.
    """
    name = codebook.name.codebook
    entries = {
        entry.manifest.normalised_prompt: (sequence, entry.manifest.edit_id)
        for sequence, _, entry in sorted(codebook.entries, key=lambda entry: entry[0])
    }
    return ArmInfo(
        name=name,
        model=f"{model}@{name}",
        preset=codebook.parameters.preset,
        codebook=name,
        digest=codebook.digest,
        parameters=codebook.parameters.to_dict(),
        edits=tuple(
            _outcome(position, entries.get(normalise_prompt(case.prompt))) for position, case in enumerate(cases)
        ),
    )


def _outcome(position: int, entry: tuple[int, str] | None) -> EditOutcome:
    if entry is None:
        return EditOutcome(position=position, failure=NO_ENTRY)
    sequence, edit_id = entry
    return EditOutcome(position=position, edit_id=edit_id, sequence=sequence)
