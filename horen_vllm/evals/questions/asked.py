"""A wording put to the model as a user would: by the strict protocol, for a passage, or to see what fires."""

from horen_vllm.evals.questions.drafts import Draft, Form, as_prompt
from horen_vllm.evals.questions.wordings import Wording
from horen_vllm.evals.records import Protocol


def as_strict(wording: Wording, form: Form) -> Draft:
    """Return a wording asked with the model's own stop, and no word about the answer's length."""
    return _asked(wording, form, Protocol.STRICT, form.strict)


def as_passage(wording: Wording, form: Form) -> Draft:
    """Return a wording as a question for a whole passage (UnKE): a text, or a short answer for a sub-question."""
    return _asked(wording, form, Protocol.PASSAGE, form.passage)


def as_fire(wording: Wording, form: Form) -> Draft:
    """Return a wording of whose answer only matters what fired, and whether it changed."""
    return _asked(wording, form, Protocol.FIRE, form.fire)


def _asked(wording: Wording, form: Form, protocol: Protocol, max_tokens: int) -> Draft:
    prompt, messages = as_prompt(wording.text, form)
    return Draft(
        protocol=protocol,
        kind=wording.kind,
        case_id=wording.case.case_id,
        position=wording.position,
        part=wording.part,
        prompt=prompt,
        messages=messages,
        max_tokens=max_tokens,
        targets=wording.targets,
    )
