"""Whether a long answer repeats itself."""

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import islice
from math import log2

from horen_vllm.evals.metrics.packages import words


def repetition(items: Sequence[Hashable], size: int = 4) -> float:
    """Return the share of n-grams that stood before: 1 - distinct / all (seq-rep-n of Welleck et al. 2020).

    Parameters
    ----------
    items
        Token ids, or words.
    size
        Items of an n-gram.
    """
    grams = _grams(items, size)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def ngram_entropy(text: str) -> float:
    """Return the generation entropy (GE) of ROME (Meng et al. 2022), in bits.

    The mean of 2/3 of the entropy of the bigrams and 4/3 of that of the trigrams of words. ROME parts the text into
    sentences first, for which NLTK needs a trained model; here the whole text is parted into words at once, so a full
    stop within it stays with its word. Low is repetitive; a text of fewer than three words has next to none.
    """
    found = words(text)
    return (2 / 3 * entropy(_grams(found, 2)) + 4 / 3 * entropy(_grams(found, 3))) / 2


def entropy(items: Sequence[Hashable]) -> float:
    """Return the entropy of the items' frequencies, in bits; 0 without items."""
    total = len(items)
    return sum(count / total * log2(total / count) for count in Counter(items).values())


def _grams(items: Sequence[Hashable], size: int) -> list[tuple[Hashable, ...]]:
    return list(zip(*(islice(items, start, None) for start in range(size)), strict=False))
