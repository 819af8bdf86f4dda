"""Edited questions as they come up in use: behind a long system prompt, in a conversation, misspelt, cut short."""

import re
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from horen_vllm.evals.questions.drafts import Draft, Form, TokenIds, as_prompt
from horen_vllm.evals.questions.surroundings import EXAMPLES, EXCHANGES, SYSTEM_PROMPT
from horen_vllm.evals.questions.wordings import Wording
from horen_vllm.evals.records import Message, Protocol, QuestionKind

TURNS: Final = {QuestionKind.TURN_1: 1, QuestionKind.TURN_3: 3, QuestionKind.TURN_5: 5}
"""The user turn at which the edited question comes, which is the last one."""

MOST_SHORT_TOKENS: Final = 3
_WORD: Final = re.compile(r"[^\W\d_]{4,}")
_WORDS_A_TYPO: Final = 6


def long_system(wording: Wording, form: Form) -> Draft:
    """Return an edited question behind `SYSTEM_PROMPT`."""
    messages = (Message(role="system", content=SYSTEM_PROMPT), Message(role="user", content=wording.text))
    return _draft(wording, QuestionKind.LONG_SYSTEM, form, messages=messages)


def few_shot(wording: Wording, form: Form) -> Draft:
    """Return an edited question behind `EXAMPLES`, all in one prompt or user message."""
    shown = "".join(f"Q: {question}\nA: {answer}\n\n" for question, answer in EXAMPLES)
    prompt, messages = as_prompt(f"{shown}Q: {wording.text}\nA:", form)
    return _draft(wording, QuestionKind.FEW_SHOT, form, prompt=prompt, messages=messages)


def in_turn(wording: Wording, kind: QuestionKind, form: Form) -> Draft:
    """Return an edited question at the user turn that `kind` names, behind turns about something else."""
    before = [
        Message(role=role, content=content)
        for exchange in EXCHANGES[: TURNS[kind] - 1]
        for role, content in zip(("user", "assistant"), exchange, strict=True)
    ]
    return _draft(wording, kind, form, messages=(*before, Message(role="user", content=wording.text)))


def ways(form: Form, seed: int) -> dict[QuestionKind, Callable[[Wording], Draft | None]]:
    """Return what asks an edited question in each of these ways that the model can be asked in, by kind."""
    found: dict[QuestionKind, Callable[[Wording], Draft | None]] = {
        QuestionKind.FEW_SHOT: partial(few_shot, form=form),
        QuestionKind.TYPO: partial(typo, form=form, seed=seed),
    }
    if form.chat:
        found[QuestionKind.LONG_SYSTEM] = partial(long_system, form=form)
        found |= {kind: partial(in_turn, kind=kind, form=form) for kind in TURNS}
    return found


def typo(wording: Wording, form: Form, seed: int) -> Draft | None:
    """Return an edited question with typing errors; None when it has no word that is long enough for one."""
    text = misspell(wording.text, seed)
    if text == wording.text:
        return None
    prompt, messages = as_prompt(text, form)
    return _draft(wording, QuestionKind.TYPO, form, prompt=prompt, messages=messages)


def misspell(text: str, seed: int) -> str:
    """Return `text` with one typing error for each six words, and at least one.

    In a word of four letters or more two inner letters change places, or one is left out or doubled. Any such word can
    be hit, the subject's too. The same text and seed give the same errors.
    """
    random = Random(f"{seed}/{text}")
    words = list(_WORD.finditer(text))
    count = min(len(words), max(1, len(text.split()) // _WORDS_A_TYPO))
    for word in sorted(random.sample(words, count), key=lambda word: word.start(), reverse=True):
        text = text[: word.start()] + _misspelt(word.group(), random) + text[word.end() :]
    return text


def _misspelt(word: str, random: Random) -> str:
    at = random.randrange(1, len(word) - 2)
    first, second = word[at], word[at + 1]
    # Letters that are equal can change places unseen.
    changes = [second, first + first + second] + ([second + first] if first != second else [])
    return word[:at] + random.choice(changes) + word[at + 2 :]


def short(wording: Wording, form: Form, token_ids: TokenIds, seed: int) -> Draft:
    """Return the beginning of an edited prompt, one to three tokens long: too little for any edit to fire."""
    most = Random(f"{seed}/{wording.text}").randint(1, MOST_SHORT_TOKENS)
    prompt, messages = as_prompt(_cut(wording.text, most, token_ids), form)
    return Draft(
        protocol=Protocol.FIRE,
        kind=QuestionKind.SHORT,
        case_id=wording.case.case_id,
        position=wording.position,
        part=wording.part,
        prompt=prompt,
        messages=messages,
        max_tokens=form.fire,
    )


def _cut(text: str, most: int, token_ids: TokenIds) -> str:
    words = text.split()[:most]
    while len(words) > 1 and len(token_ids(" ".join(words))) > most:
        words.pop()
    beginning = " ".join(words) or text
    while len(beginning) > 1 and len(token_ids(beginning)) > most:
        beginning = beginning[: len(beginning) // 2]
    return beginning


def _draft(
    wording: Wording,
    kind: QuestionKind,
    form: Form,
    *,
    prompt: str | None = None,
    messages: tuple[Message, ...] = (),
) -> Draft:
    return Draft(
        protocol=Protocol.STRICT,
        kind=kind,
        case_id=wording.case.case_id,
        position=wording.position,
        part=wording.part,
        prompt=prompt,
        messages=messages,
        max_tokens=form.strict,
        targets=wording.targets,
    )
