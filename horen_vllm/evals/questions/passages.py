"""Passages (UnKE): free text, compared with a reference passage, or with a short answer for a sub-question."""

from horen_vllm.evals.questions.drafts import Draft, Form, as_prompt
from horen_vllm.evals.questions.wordings import Wording
from horen_vllm.evals.records import Protocol


def as_passage(wording: Wording, form: Form) -> Draft:
    """Return a wording as a question for a whole passage."""
    prompt, messages = as_prompt(wording.text, form)
    return Draft(
        protocol=Protocol.PASSAGE,
        kind=wording.kind,
        case_id=wording.case.case_id,
        position=wording.position,
        part=wording.part,
        prompt=prompt,
        messages=messages,
        max_tokens=form.passage,
        targets=wording.targets,
    )
