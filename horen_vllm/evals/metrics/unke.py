"""ROUGE and BLEU as the evaluation of UnKE computes them (Deng et al. 2024, arXiv 2405.15349, ``evaluate.py``).

The numbers that papers report on UnKE, this project's paper among them, are these. They differ from what their names
say elsewhere: ROUGE is the recall over distinct words, case and commas kept, by the package ``rouge``, so a longer
answer never costs anything, and BLEU is over characters.
"""

import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from horen_vllm.evals.metrics.overlap import Rouge, sentence_bleu


def unke_rouge(answer: str, reference: str) -> Rouge:
    """Return the recall of ROUGE-1, -2 and -L as the package ``rouge`` computes them, 0 to 1.

    Full stops part the text into sentences and are dropped. ROUGE-1 and -2 count distinct n-grams across sentences.
    ROUGE-L counts the distinct words that are in a longest common subsequence of a sentence of the reference and one
    of the answer, as a share of the reference's distinct words. Where that package fails, the value is 0.
    """
    ours, theirs = _sentences(answer), _sentences(reference)
    if not any(theirs):
        return Rouge(0.0, 0.0, 0.0)
    common: set[str] = set()
    for sentence in theirs:
        for other in ours:
            common |= _common_words(sentence, other)
    own, wanted = _flat(ours), _flat(theirs)
    return Rouge(_recall(own, wanted, 1), _recall(own, wanted, 2), len(common) / len(set(wanted)))


def unke_bleu(answer: str, reference: str) -> float:
    """Return BLEU-4 over characters, not smoothed: NLTK's `sentence_bleu` given the strings themselves, 0 to 1."""
    return sentence_bleu(answer, reference, smoothing_function=_without_smoothing)


def _without_smoothing(precisions: list[Fraction], **_: Any) -> list[float]:
    """Return what NLTK takes without smoothing, less its warning about each answer that lacks an order."""
    return [float(precision) or sys.float_info.min for precision in precisions]


def _sentences(text: str) -> list[list[str]]:
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _flat(sentences: list[list[str]]) -> list[str]:
    return [word for sentence in sentences for word in sentence]


def _recall(answer: Sequence[str], reference: Sequence[str], size: int) -> float:
    ours, theirs = (
        {tuple(text[start : start + size]) for start in range(len(text) - size + 1)} for text in (answer, reference)
    )
    return len(ours & theirs) / len(theirs) if theirs else 0.0


def _common_words(reference: Sequence[str], answer: Sequence[str]) -> set[str]:
    """Return the distinct words of one longest common subsequence; among equals, the one that package takes."""
    lengths = [[0] * (len(answer) + 1) for _ in range(len(reference) + 1)]
    for row, word in enumerate(reference, start=1):
        for column, other in enumerate(answer, start=1):
            longest = max(lengths[row - 1][column], lengths[row][column - 1])
            lengths[row][column] = lengths[row - 1][column - 1] + 1 if word == other else longest
    found, row, column = set[str](), len(reference), len(answer)
    while row and column:
        if reference[row - 1] == answer[column - 1]:
            found.add(reference[row - 1])
            row, column = row - 1, column - 1
        elif lengths[row - 1][column] > lengths[row][column - 1]:
            row -= 1
        else:
            column -= 1
    return found
