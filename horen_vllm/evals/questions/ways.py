"""Which kind of question is asked by which protocol, and where in the stream."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from horen_vllm.evals.questions import robustness
from horen_vllm.evals.questions.asked import as_fire, as_passage, as_strict
from horen_vllm.evals.questions.continuations import as_continuation
from horen_vllm.evals.questions.drafts import Draft, TokenIds
from horen_vllm.evals.questions.paper import as_paper
from horen_vllm.evals.questions.plan_settings import PlanSettings
from horen_vllm.evals.questions.wordings import NEGATIVES, PORTABILITY, Wording
from horen_vllm.evals.records import Protocol, QuestionKind

DIRECT: Final = (QuestionKind.EDIT, QuestionKind.REPHRASE)
"""Where the target itself is the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to ask.

    Attributes
    ----------
    source
        Kind of the wordings that it makes questions of.
    kind
        Kind of the questions.
    draft
        Makes the question; None where the wording does not lend itself to it.
    """

    source: QuestionKind
    protocol: Protocol
    kind: QuestionKind
    draft: Callable[[Wording], Draft | None]


def at_every_checkpoint(settings: PlanSettings, token_ids: TokenIds) -> list[Way]:
    """Return what the curves against the number of edits are made of."""
    asked = [way for kind in direct_kinds(settings) for way in judged(kind, settings, token_ids)]
    paper, fire = partial(as_paper, form=settings.form, token_ids=token_ids), partial(as_fire, form=settings.form)
    for kind in NEGATIVES:
        asked += [_way(Protocol.PAPER, kind, paper), _way(Protocol.FIRE, kind, fire)]
    return [way for way in asked if settings.wants(way.protocol, way.kind)]


def at_the_end(settings: PlanSettings, token_ids: TokenIds) -> list[Way]:
    """Return what is asked of the whole codebook only."""
    form, edit = settings.form, QuestionKind.EDIT
    asked = [way for kind in PORTABILITY for way in _by_word(kind, settings, token_ids)]
    asked.append(
        Way(
            source=edit,
            protocol=Protocol.CONTINUATION,
            kind=QuestionKind.CONTINUE,
            draft=partial(as_continuation, form=form),
        )
    )
    short = partial(robustness.short, form=form, token_ids=token_ids, seed=settings.seed)
    asked.append(Way(source=edit, protocol=Protocol.FIRE, kind=QuestionKind.SHORT, draft=short))
    if not settings.passages:
        asked += [
            Way(source=edit, protocol=Protocol.STRICT, kind=kind, draft=draft)
            for kind, draft in robustness.ways(form, settings.seed).items()
        ]
    return [way for way in asked if settings.wants(way.protocol, way.kind)]


def direct_kinds(settings: PlanSettings) -> tuple[QuestionKind, ...]:
    """Return the kinds that the edit itself answers."""
    return (*DIRECT, QuestionKind.SUB_QUESTION) if settings.passages else DIRECT


def judged(kind: QuestionKind, settings: PlanSettings, token_ids: TokenIds) -> list[Way]:
    """Return the ways to ask for the target of an edit: word for word, or for a passage."""
    if settings.passages:
        return [_way(Protocol.PASSAGE, kind, partial(as_passage, form=settings.form))]
    return _by_word(kind, settings, token_ids)


def _by_word(kind: QuestionKind, settings: PlanSettings, token_ids: TokenIds) -> list[Way]:
    return [
        _way(Protocol.PAPER, kind, partial(as_paper, form=settings.form, token_ids=token_ids)),
        _way(Protocol.STRICT, kind, partial(as_strict, form=settings.form)),
    ]


def _way(protocol: Protocol, kind: QuestionKind, draft: Callable[[Wording], Draft | None]) -> Way:
    return Way(source=kind, protocol=protocol, kind=kind, draft=draft)
