"""Makes the record of an answer: its metrics, against the base model's answer and the edit that should fire."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from horen_vllm.evals.questions.drafts import BASE, TokenIds, base_question_id
from horen_vllm.evals.records import Answer, Protocol, Question, QuestionKind, Record
from horen_vllm.evals.reporting.run_info import EditOutcome
from horen_vllm.evals.scoring import Similarity, score

SILENT: Final = frozenset(
    {
        QuestionKind.UNRELATED,
        QuestionKind.NEAR,
        QuestionKind.SAME_SUBJECT,
        QuestionKind.ORDINARY,
        QuestionKind.ABILITY,
        QuestionKind.SHORT,
        QuestionKind.ROLLED_BACK,
    }
)
"""Kinds at which no edit should fire."""


class Judge:
    """Scores the answers of a run.

    Parameters
    ----------
    token_ids
        The model's tokenizer, without special tokens.
    similarity
        For passages; None: they get no semantic score.
    """

    def __init__(self, token_ids: TokenIds, similarity: Similarity | None = None) -> None:
        self._token_ids = token_ids
        self._similarity = similarity
        self._base: dict[str, Answer] = {}

    def learn(self, records: Iterable[Record]) -> None:
        """Remember the base model's answers among `records`: others are compared with them."""
        for record in records:
            if record.question.arm == BASE:
                self._base[record.question.question_id] = record.answer

    def record(self, question: Question, answer: Answer, edits: Mapping[int, str]) -> Record:
        """Return the record of an answer.

        Parameters
        ----------
        edits
            Position in the stream to the edit that should answer for it.
        """
        base = None if question.arm == BASE else self._base.get(base_question_id(question.question_id))
        expected = (
            None if question.kind in SILENT else edits.get(-1 if question.position is None else question.position)
        )
        metrics = score(
            question,
            answer,
            target_ids=self._target_ids(question),
            base=base,
            expected_edit=expected,
            similarity=self._similarity,
        )
        record = Record(question=question, answer=answer, metrics=metrics, expected_edit=expected)
        self.learn([record])
        return record

    def _target_ids(self, question: Question) -> Sequence[int]:
        paper = question.protocol is Protocol.PAPER and question.targets
        # A target that continues a prompt has a space before it (the paper's appendix D.3).
        return self._token_ids(f" {question.targets[0]}") if paper else ()


def answering(outcomes: Iterable[EditOutcome]) -> dict[int, str]:
    """Return which edit should answer for each position; none for an edit that failed."""
    return {
        it.position: it.answered_by or it.edit_id for it in outcomes if it.failure is None and it.edit_id is not None
    }
