"""What comes after an edit has answered: a long completion of the edited prompt."""

from horen_vllm.evals.questions.drafts import Draft, Form
from horen_vllm.evals.questions.wordings import Wording
from horen_vllm.evals.records import Protocol, QuestionKind


def as_continuation(wording: Wording, form: Form) -> Draft:
    """Return an edited prompt to be completed by exactly so many tokens, so that all answers are equally long."""
    return Draft(
        protocol=Protocol.CONTINUATION,
        kind=QuestionKind.CONTINUE,
        case_id=wording.case.case_id,
        position=wording.position,
        part=wording.part,
        prompt=wording.text,
        max_tokens=form.continuation,
        min_tokens=form.continuation,
        targets=wording.targets,
    )
