"""What the tables and plots call things."""

from typing import Final

from horen_vllm.evals.records import Protocol, QuestionKind
from horen_vllm.evals.reporting.summary_parts import Number

METRICS: Final = {
    "token_accuracy": "tokens right",
    "all_tokens": "all tokens right",
    "exact": "exact match",
    "normalised": "normalised match",
    "contains": "contains the answer",
    "word_f1": "word F1",
    "locality": "tokens as before",
    "locality_paper": "last tokens as before",
    "unchanged": "answer as before",
    "fired": "an edit fired",
    "right_edit": "its edit fired",
    "stopped": "stopped by itself",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    "unke_rouge1": "ROUGE-1 (UnKE)",
    "unke_rouge2": "ROUGE-2 (UnKE)",
    "unke_rougeL": "ROUGE-L (UnKE)",
    "unke_bleu": "BLEU (UnKE)",
    "semantic": "semantic",
    "long_enough": "long enough",
    "repetition": "repetition",
    "ngram_entropy": "n-gram entropy, bits",
}
"""Metric to heading; a metric without one is called by its name."""
MEANINGS: Final = {
    "tokens right": "share of the target's tokens that were generated in their place (the paper's m(y, y'))",
    "normalised match": "the answer is a target, but for case, punctuation, articles and white space",
    "last tokens as before": "share of the last tokens of prompt and answer that are the base model's (the paper's)",
    "tokens as before": "share of the generated tokens that are the base model's",
    "answer as before": "every generated token is the base model's",
    "its edit fired": "the edit of the question's own case answered; of those whose edit is served",
    "OP": "overall performance: geometric mean of reliability, generalisation and locality",
    "per 10,000": "fires in ten thousand such prompts, of as many as were asked",
    "long enough": "the continuation has the length that was asked for (where none was: 50 tokens)",
    "repetition": "share of the answer's four-token sequences that stood in it before",
}
"""Heading to what it means, for the report's own list."""
PROTOCOLS: Final = {
    Protocol.PAPER: "as many tokens as the target has, greedy (the paper's appendix D.3)",
    Protocol.STRICT: "a chat message, natural stop, nothing said of the target's length",
    Protocol.PASSAGE: "free text against a reference passage",
    Protocol.FIRE: "a chat message; what counts is whether an edit fires and whether the answer changes",
    Protocol.CONTINUATION: "a long greedy continuation of the edited prompt, of the same length for all",
}


def metric(name: str) -> str:
    """Return the heading of a metric."""
    return METRICS.get(name, name.replace("_", " "))


def kind(value: QuestionKind) -> str:
    """Return what a kind of question is called."""
    return value.replace("_", " ")


def share(number: Number | None) -> str:
    """Return a number as it stands in a table."""
    return "" if number is None else f"{number.value:.3f}"


def interval(number: Number | None) -> str:
    """Return the interval of a number as it stands beside it."""
    return "" if number is None else f"{number.low:.3f} to {number.high:.3f}, n = {number.count}"
