"""What a locality prompt is a negative of: published files seldom say, and they mean different things."""

from collections.abc import Iterator
from typing import Final

from horen_vllm.core.anchors import MAX_WORDS, AnchorTable
from horen_vllm.core.words import plain_words
from horen_vllm.evals.records import Probe, ProbeKind

BY_NAME: Final = {
    # Natural Questions, which have nothing to do with the edits.
    "zsre": ProbeKind.UNRELATED,
    # The same relation of another subject.
    "counterfact": ProbeKind.NEAR,
    "wikibigedit": ProbeKind.NEAR,
    "wikifactdiff": ProbeKind.NEAR,
}


def usual_kind(*names: str) -> ProbeKind:
    """Return what the locality prompts of a data set are, by the first of these names that holds a known one.

    Data sets that nobody knows are taken to have unrelated ones.
    """
    for name in names:
        # "knowedit/wiki_counterfact" is no CounterFact, but names the subject in every prompt, which decides then.
        found = next((kind for known, kind in BY_NAME.items() if known in name.lower()), None)
        if found is not None:
            return found
    return ProbeKind.UNRELATED


def negative_kind(prompt: str, subject: str | None, usual: ProbeKind) -> ProbeKind:
    """Return which negative `prompt` is for an edit about `subject`: it names the subject, or it is the usual one."""
    return ProbeKind.SAME_SUBJECT if subject is not None and is_named(subject, prompt) else usual


def negatives(asked: Iterator[tuple[str, tuple[str, ...]]], subject: str | None, usual: ProbeKind) -> Iterator[Probe]:
    """Yield locality prompts with their answers as probes."""
    for prompt, targets in asked:
        yield Probe(kind=negative_kind(prompt, subject, usual), prompt=prompt, targets=targets)


def is_named(subject: str, text: str) -> bool:
    """Whether the words of `subject` stand in `text` in a row, whatever their case, accents and punctuation."""
    words = plain_words(subject)
    return 1 <= len(words) <= MAX_WORDS and bool(AnchorTable({0: [words]}).find(plain_words(text)))
