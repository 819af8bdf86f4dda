"""The paper's protocol (appendix D.3): a completion of exactly as many tokens as the target has.

It hands the model the length of the answer, which nobody does in use; `strict` does not.
"""

from horen_vllm.evals.questions.drafts import Draft, Form, TokenIds
from horen_vllm.evals.questions.wordings import Wording
from horen_vllm.evals.records import Protocol


def as_paper(wording: Wording, form: Form, token_ids: TokenIds) -> Draft:
    """Return a wording as the paper asks it.

    The length is that of the first target behind a space, as it would stand in a text. A locality question has the
    length of the file's answer to it, which is not what it is judged by.
    """
    length = len(token_ids(f" {wording.targets[0]}")) if wording.targets else form.locality
    return Draft(
        protocol=Protocol.PAPER,
        kind=wording.kind,
        case_id=wording.case.case_id,
        position=wording.position,
        part=wording.part,
        prompt=wording.text,
        max_tokens=max(1, length),
        targets=wording.targets,
    )
