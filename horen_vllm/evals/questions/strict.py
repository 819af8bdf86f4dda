"""The strict protocol: a chat message, the model's own stop, and no word about the answer's length."""

from horen_vllm.evals.questions.drafts import Draft, Form, as_prompt
from horen_vllm.evals.questions.wordings import Wording
from horen_vllm.evals.records import Protocol


def as_strict(wording: Wording, form: Form) -> Draft:
    """Return a wording as a user would ask it."""
    prompt, messages = as_prompt(wording.text, form)
    return Draft(
        protocol=Protocol.STRICT,
        kind=wording.kind,
        case_id=wording.case.case_id,
        position=wording.position,
        part=wording.part,
        prompt=prompt,
        messages=messages,
        max_tokens=form.strict,
        targets=wording.targets,
    )
