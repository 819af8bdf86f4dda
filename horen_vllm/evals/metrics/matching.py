"""Whether a text gives an answer: exactly, after normalisation, anywhere in it, and in part."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Final

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = frozenset(string.punctuation)


def normalised(text: str) -> str:
    """Return `text` as SQuAD's evaluation compares it (Rajpurkar et al. 2016), for all of Unicode.

    Compatibility forms are made one (NFKC), case is folded, punctuation and English articles are removed and white
    space becomes single spaces. A text of nothing but those keeps them, so that it never equals the empty answer.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(char for char in folded if not _is_punctuation(char))
    return " ".join(_ARTICLES.sub(" ", bare).split()) or " ".join(folded.split())


def exact(answer: str, targets: Sequence[str]) -> bool:
    """Return whether the answer is one of the targets, white space around either left out."""
    return answer.strip() in {target.strip() for target in targets}


def same_normalised(answer: str, targets: Sequence[str]) -> bool:
    """Return whether the answer is one of the targets after `normalised`."""
    return normalised(answer) in {normalised(target) for target in targets}


def contains(answer: str, targets: Sequence[str]) -> bool:
    """Return whether the words of a target stand in the answer one after the other, both `normalised`.

    Words are what white space parts: in a script without spaces the target must be the whole of a run.
    """
    words = f" {normalised(answer)} "
    return any(f" {normalised(target)} " in words for target in targets if target.strip())


def word_f1(answer: str, targets: Sequence[str]) -> float:
    """Return the best harmonic mean of precision and recall of the words, `normalised` (SQuAD's F1)."""
    return max((_word_f1(normalised(answer).split(), normalised(target).split()) for target in targets), default=0.0)


def _word_f1(answer: list[str], target: list[str]) -> float:
    common = (Counter(answer) & Counter(target)).total()
    return 2 * common / (len(answer) + len(target)) if common else float(answer == target)


def _is_punctuation(char: str) -> bool:
    return char in _PUNCTUATION or unicodedata.category(char).startswith("P")
