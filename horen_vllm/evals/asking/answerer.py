"""Who answers questions, as a run sees it."""

from typing import Protocol

from horen_vllm.evals.records import Answer, Question


class Answerer(Protocol):
    """A model that answers greedily: behind a server, or in this process.

    Its methods may be called by several threads at once.
    """

    def ask(self, question: Question) -> Answer:
        """Return the greedy answer to `question`.

        Raises
        ------
        InvalidArgument
            ``question_refused``, when this question cannot be answered whoever asks again: it is too long, say.
        Unavailable
            ``server_unavailable``, when nobody answered within the patience of the answerer. That says nothing about
            the model: the question stays unanswered. ``question_unanswered``, when that is so of this question, and
            another one was answered then.
        HorenError
            Everything else that makes further questions pointless: an unknown model, a credential that is not taken.
        """
        ...

    def token_ids(self, text: str) -> tuple[int, ...]:
        """Return the token ids of `text` by the model's tokenizer, without any special tokens; raises as `ask`."""
        ...

    def model_names(self) -> tuple[str, ...]:
        """Return the names that questions may be addressed to, codebooks (``NAME@CODEBOOK``) included."""
        ...
