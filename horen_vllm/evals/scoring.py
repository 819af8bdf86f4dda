"""What an answer is worth, by the protocol and the kind of its question.

Every name, with its definition and source, is in ``docs/reference/eval-metrics.md``.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from horen_vllm.evals.metrics.fluency import ngram_entropy, repetition
from horen_vllm.evals.metrics.matching import contains, exact, same_normalised, word_f1
from horen_vllm.evals.metrics.overlap import bleu, rouge
from horen_vllm.evals.metrics.tokens import generated_kept, last_tokens_kept, token_accuracy
from horen_vllm.evals.metrics.unke import unke_bleu, unke_rouge
from horen_vllm.evals.records import Answer, Protocol, Question, QuestionKind

Similarity: TypeAlias = Callable[[str, str], float]
"""How alike an answer and a reference are in meaning; see `metrics.semantic`."""

MUST_KEEP: Final = frozenset(
    {
        QuestionKind.UNRELATED,
        QuestionKind.NEAR,
        QuestionKind.SAME_SUBJECT,
        QuestionKind.ORDINARY,
        QuestionKind.ABILITY,
        QuestionKind.ROLLED_BACK,
    }
)
"""Kinds whose answer should be the base model's."""
_LONG: Final = 50
"""Tokens from which on an answer of any length is judged by its repetition."""


def score(
    question: Question,
    answer: Answer,
    *,
    target_ids: Sequence[int] = (),
    base: Answer | None = None,
    expected_edit: str | None = None,
    similarity: Similarity | None = None,
) -> dict[str, float]:
    """Return the metrics of one answer, name to value.

    Parameters
    ----------
    target_ids
        Tokens of a space and the canonical target, without special tokens; empty for a question without a target.
        Needed by the paper's protocol alone.
    base
        What the base model answered to the same question; without it nothing that compares with it is in the result.
    expected_edit
        Edit that should fire, where it is known.
    similarity
        For passages; without it there is no ``semantic``.
    """
    found = {"fired": float(answer.edit_id is not None)}
    if expected_edit is not None:
        found["right_edit"] = float(answer.edit_id == expected_edit)
    if base is not None:
        found |= _against_base(question, answer, base, len(target_ids))
    match question.protocol:
        case Protocol.PAPER:
            found |= _paper(question, answer, target_ids)
        case Protocol.STRICT | Protocol.FIRE:
            found |= {"stopped": _stopped(answer)} | _matches(question, answer)
        case Protocol.PASSAGE:
            found |= {"stopped": _stopped(answer)} | _passage(question, answer, similarity)
        case Protocol.CONTINUATION:
            found |= _continuation(question, answer)
    return found


def _against_base(question: Question, answer: Answer, base: Answer, length: int) -> dict[str, float]:
    found = {"unchanged": float(answer.token_ids == base.token_ids)}
    if question.kind not in MUST_KEEP:
        return found
    if question.protocol is not Protocol.PAPER:
        return found | {"locality": generated_kept(base.token_ids, answer.token_ids)}
    length = length or question.max_tokens
    full = [(each.prompt_token_ids, each.token_ids) for each in (base, answer)]
    return found | {
        "locality": generated_kept(base.token_ids, answer.token_ids, length),
        "locality_paper": last_tokens_kept(full[0], full[1], length),
    }


def _paper(question: Question, answer: Answer, target_ids: Sequence[int]) -> dict[str, float]:
    if not target_ids:
        return {}
    accuracy = token_accuracy(target_ids, answer.token_ids)
    return {"token_accuracy": accuracy, "all_tokens": float(accuracy == 1.0)} | _matches(question, answer)


def _matches(question: Question, answer: Answer) -> dict[str, float]:
    if not question.targets:
        return {}
    return {
        "exact": float(exact(answer.text, question.targets)),
        "normalised": float(same_normalised(answer.text, question.targets)),
        "contains": float(contains(answer.text, question.targets)),
        "word_f1": word_f1(answer.text, question.targets),
    }


def _passage(question: Question, answer: Answer, similarity: Similarity | None) -> dict[str, float]:
    """Return the best value over the references, of each measure."""
    each = [_passage_against(answer.text, reference, similarity) for reference in question.targets]
    return {name: max(values[name] for values in each) for name in (each[0] if each else ())} | _matches(
        question, answer
    )


def _passage_against(text: str, reference: str, similarity: Similarity | None) -> dict[str, float]:
    usual, theirs = rouge(text, reference), unke_rouge(text, reference)
    found = {
        "rouge1": usual.rouge1,
        "rouge2": usual.rouge2,
        "rougeL": usual.rouge_l,
        "bleu": bleu(text, reference),
        "unke_rouge1": theirs.rouge1,
        "unke_rouge2": theirs.rouge2,
        "unke_rougeL": theirs.rouge_l,
        "unke_bleu": unke_bleu(text, reference),
    }
    return found if similarity is None else found | {"semantic": similarity(text, reference)}


def _continuation(question: Question, answer: Answer) -> dict[str, float]:
    """Return what is measured of a continuation; an answer that ended early has no repetition and no entropy."""
    enough = long_enough(question, answer)
    found = {"long_enough": float(enough)}
    if enough:
        found |= {"repetition": repetition(answer.token_ids), "ngram_entropy": ngram_entropy(answer.text)}
    return found | ({"contains": float(contains(answer.text, question.targets))} if question.targets else {})


def long_enough(question: Question, answer: Answer) -> bool:
    """Return whether an answer is long enough to tell how it repeats itself: as long as was asked for.

    Where no least length was asked for, as in runs of the first version, that is 50 tokens.
    """
    return len(answer.token_ids) >= (question.min_tokens or _LONG)


def _stopped(answer: Answer) -> float:
    return float(answer.finish_reason == "stop")
