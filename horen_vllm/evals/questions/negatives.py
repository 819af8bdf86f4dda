"""Questions where no edit may fire, and those of them that turn out to be about an edit after all."""

from collections.abc import Sequence

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.core.anchors import MAX_WORDS, AnchorTable
from horen_vllm.core.words import plain_words
from horen_vllm.evals.questions.wordings import Wording
from horen_vllm.evals.records import Case, QuestionKind


class Stream:
    """What a stream of edits is about: a question about that is no negative.

    Parameters
    ----------
    cases
        Every case that is submitted, not only those before a checkpoint: a question is then a negative at all
        checkpoints or at none.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self._texts = {normalise_prompt(text) for case in cases for text in (case.prompt, *case.rephrases)}
        self._subjects = AnchorTable()
        for position, case in enumerate(cases):
            words = plain_words(case.subject or "")
            if 1 <= len(words) <= MAX_WORDS:
                self._subjects.add(position, [words])

    def is_edited(self, text: str) -> bool:
        """Return whether `text` is the prompt or a rephrase of an edit."""
        return normalise_prompt(text) in self._texts

    def objection(self, wording: Wording) -> str | None:
        """Return why `wording` is no negative of its kind, as a slug; None when it is one.

        ``edited_prompt``: it is the prompt or a rephrase of an edit. ``edited_subject``: it was to be about another
        subject, but that subject is edited too.
        """
        if self.is_edited(wording.text):
            return "edited_prompt"
        if wording.kind is QuestionKind.NEAR and self._subjects.find(plain_words(wording.text)):
            return "edited_subject"
        return None
