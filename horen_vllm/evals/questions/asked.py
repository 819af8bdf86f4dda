"""A wording put to the model as a user would: by the strict protocol, for a passage, or to see what fires."""

from dataclasses import replace
from typing import Final

from horen_vllm.evals.questions.drafts import Draft, Form, TokenIds, as_prompt
from horen_vllm.evals.questions.wordings import Wording
from horen_vllm.evals.records import Protocol

_ROOM: Final = 16
"""Tokens beside the right answer: an end token, a full stop, another spelling of the same words."""


def as_strict(wording: Wording, form: Form) -> Draft:
    """Return a wording asked with the model's own stop, and no word about the answer's length."""
    return _asked(wording, form, Protocol.STRICT, form.strict)


def with_room(draft: Draft, token_ids: TokenIds) -> Draft:
    """Return a question of the strict protocol with room for its longest right answer, and any other as it is.

    The model is not told how much room there is, so it gives nothing away; without it a long answer could not be right.
    """
    if draft.protocol is not Protocol.STRICT:
        return draft
    # No tokenizer makes more tokens of a text than it has bytes, so most answers need not be looked at.
    most = draft.max_tokens - _ROOM
    long = [target for target in draft.targets if len(target.encode("utf-8", "surrogatepass")) > most]
    needed = max((len(token_ids(f" {target}")) + _ROOM for target in long), default=0)
    return replace(draft, max_tokens=max(draft.max_tokens, needed))


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
