"""The baseline without editing: the fact is looked up among the edits, and put into the prompt.

BM25 (Robertson and Zaragoza, 2009) in the variant of Lucene, as the package bm25s computes it, over the words of prompt
and target. It always gives the best fact that shares a word with the question, so it has no threshold to tune, and it
also speaks up where no edit is meant.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import bm25s

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.core.words import plain_words
from horen_vllm.evals.questions.drafts import Draft
from horen_vllm.evals.records import Case

# It sets its own logger to DEBUG, which would stand between the lines of progress.
logging.getLogger("bm25s").setLevel(logging.WARNING)

INTRODUCTION: Final = "These facts are up to date. Use them where they answer the question."
"""What stands before the facts in a prompt."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What an edit says."""

    prompt: str
    target: str

    @property
    def text(self) -> str:
        """The fact as one line of a prompt."""
        return f"{self.prompt} {self.target}"


def facts_of(cases: Iterable[Case], later: Iterable[Fact] = ()) -> list[Fact]:
    """Return what the edits of `cases`, and `later` ones, say in the end: of one prompt the newest."""
    facts: dict[str, Fact] = {}
    for fact in (*(Fact(case.prompt, case.target) for case in cases), *later):
        facts[normalise_prompt(fact.prompt)] = fact
    return list(facts.values())


class Retriever:
    """Finds the facts for a question.

    Parameters
    ----------
    facts
        One without any word is never found.
    """

    def __init__(self, facts: Iterable[Fact]) -> None:
        found = [(fact, words) for fact in facts if (words := plain_words(fact.text))]
        self._facts = [fact for fact, _ in found]
        self._known = frozenset(word for _, words in found for word in words)
        self._index = bm25s.BM25(backend="numpy")
        if found:
            self._index.index([list(words) for _, words in found], show_progress=False)

    def find(self, text: str, count: int = 1) -> list[Fact]:
        """Return the best facts for `text`, best first; none that shares no word with it."""
        words = [word for word in plain_words(text) if word in self._known]
        if not words:
            return []
        numbers, scores = self._index.retrieve(
            [words], k=min(count, len(self._facts)), show_progress=False, backend_selection="numpy"
        )
        return [self._facts[number] for number, score in zip(numbers[0], scores[0], strict=True) if score > 0]


def with_facts(draft: Draft, facts: Sequence[Fact]) -> Draft:
    """Return a question with `facts` in front of it: of the prompt, or of the last user message."""
    if not facts:
        return draft
    shown = "\n".join((INTRODUCTION, *(fact.text for fact in facts), "", ""))
    if draft.prompt is not None:
        return replace(draft, prompt=shown + draft.prompt)
    last = max(number for number, message in enumerate(draft.messages) if message.role == "user")
    told = replace(draft.messages[last], content=shown + draft.messages[last].content)
    return replace(draft, messages=(*draft.messages[:last], told, *draft.messages[last + 1 :]))
