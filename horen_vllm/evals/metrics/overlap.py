"""Words that an answer shares with a reference passage: ROUGE and BLEU as the field computes them.

UnKE's own evaluation computes other numbers under the same names; they are in `unke`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from horen_vllm.evals.metrics.packages import package, words


@dataclass(frozen=True, slots=True)
class Rouge:
    """ROUGE of one answer against one reference (Lin 2004): 0 to 1."""

    rouge1: float
    rouge2: float
    rouge_l: float


def rouge(answer: str, reference: str) -> Rouge:
    """Return the F1 of ROUGE-1, -2 and -L by the package ``rouge-score``, without stemming.

    Its words are runs of a-z and 0-9 after lower-casing, so a text in another script has none and gets 0.
    """
    found = _scorer().score(reference, answer)
    return Rouge(*(float(found[name].fmeasure) for name in ("rouge1", "rouge2", "rougeL")))


def bleu(answer: str, reference: str) -> float:
    """Return BLEU-4 of one answer over words (Papineni et al. 2002) by NLTK, 0 to 1.

    Orders without a match are smoothed as NIST's mteval-v13a does (Chen and Cherry 2014, method 3), and an answer of
    fewer than four words is judged by the orders that it has.
    """
    smoothing = package("nltk.translate.bleu_score").SmoothingFunction().method3
    return sentence_bleu(words(answer), words(reference), smoothing_function=smoothing, auto_reweigh=True)


def sentence_bleu(answer: Sequence[str], reference: Sequence[str], **options: Any) -> float:
    """Return NLTK's BLEU of one sequence of words against another."""
    return float(package("nltk.translate.bleu_score").sentence_bleu([reference], answer, **options))


@cache
def _scorer() -> Any:
    return package("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
