"""The report's sections on quality: what edits are worth, where they fire, how they age."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from horen_vllm.evals.records import Protocol, QuestionKind
from horen_vllm.evals.reporting import words
from horen_vllm.evals.reporting.curves import (
    age_curves,
    equal_rate_curves,
    false_fire_curves,
    overall_curves,
    score_histograms,
)
from horen_vllm.evals.reporting.measures import PORTABILITY, ROBUSTNESS
from horen_vllm.evals.reporting.pages import Cell, Row, Section, Table
from horen_vllm.evals.reporting.run_records import Run
from horen_vllm.evals.reporting.summary_parts import EqualRate, Group, Summary

_WORTH: Final = {
    Protocol.PAPER: ("token_accuracy", "all_tokens", "normalised", "right_edit"),
    Protocol.STRICT: ("exact", "normalised", "contains", "word_f1", "right_edit"),
    Protocol.PASSAGE: (
        "rouge1",
        "rouge2",
        "rougeL",
        "bleu",
        "unke_rouge1",
        "unke_rouge2",
        "unke_rougeL",
        "unke_bleu",
        "semantic",
        "contains",
        "right_edit",
    ),
}
"""Metrics shown where an answer is judged, by protocol."""
_BESIDE: Final = (
    "Beside each number: its 95 % interval, and how many answers it is of. That of OP is drawn from the answers "
    "alone, so it has no width where all are equal."
)


def quality(run: Run, summary: Summary) -> Iterator[Section]:
    """Yield the sections on quality in their order."""
    last = [group for group in summary.groups if group.checkpoint == run.last]
    yield _overall(run, summary)
    yield Section(
        "edits-and-rephrases",
        "Edits and rephrases in full",
        tables=_judged(last, (QuestionKind.EDIT, QuestionKind.REPHRASE, QuestionKind.SUB_QUESTION)),
    )
    yield _negatives(run, summary)
    yield _equal(run, summary)
    yield Section(
        "scores",
        "Scores",
        "Best score of the codebook for each question at the last checkpoint, fired or not; the axis of the shares "
        "grows with their root. An edit fires where its score is above the line of its threshold: there is one for "
        "edits with a subject, which the prompt must also name, and one for the others. A codebook of distances "
        "(GRACE) has no line: each edit has a radius of its own, and the score is the distance with a minus.",
        plots=score_histograms(run, summary),
    )
    yield Section(
        "robustness",
        "The same question in other surroundings",
        "At the last checkpoint: behind a long system prompt, behind examples, at a turn of a conversation, with "
        "typing errors. Compare with the edit itself.",
        tables=_judged(last, (QuestionKind.EDIT, *ROBUSTNESS), only=Protocol.STRICT, needs=ROBUSTNESS),
    )
    yield Section(
        "portability",
        "What follows from an edit",
        "Questions that need the edited fact, by kind: one step of reasoning or another name, as somebody else would "
        "put it, several steps.",
        tables=_judged(last, PORTABILITY),
    )
    yield _continuations(last)
    yield _ability(last)
    yield _ageing(last, summary)


def _overall(run: Run, summary: Summary) -> Section:
    rows: list[Row] = [
        [
            one.arm,
            one.protocol,
            Cell.of(one.reliability),
            Cell.of(one.generalisation),
            Cell.of(one.locality),
            Cell.of(one.op),
        ]
        for one in summary.overall
        if one.checkpoint == run.last
    ]
    header = ["arm", "protocol", "reliability", "generalisation", "locality", "OP"]
    note = " ".join(
        f"{protocol}: {words.PROTOCOLS[protocol]}; judged by {words.metric(worth)}; {_locality(summary, protocol)}."
        for protocol, worth in dict.fromkeys((one.protocol, one.worth) for one in summary.overall)
    )
    return Section(
        "overall",
        f"After {run.last:,} edits",
        f"By protocol. {note} Locality compares with the base model, which has none itself.",
        [Table("", header, rows, _BESIDE)],
        overall_curves(summary),
    )


def _locality(summary: Summary, protocol: Protocol) -> str:
    source = next((one.locality_of for one in summary.overall if one.protocol is protocol and one.locality_of), None)
    if source is None:
        return "no locality and no OP, since no question was asked that they could come from"
    asked, kind, metric = source.split("/")
    return f"locality: {words.metric(metric)} of {kind.replace('_', ' ')} questions ({asked})"


def _negatives(run: Run, summary: Summary) -> Section:
    rows: list[Row] = [
        [
            one.arm,
            words.kind(one.kind),
            one.protocol,
            f"{one.fired} of {one.share.count}",
            Cell(f"{one.per_10_000:,.0f}", f"{one.share.low * 10_000:,.0f} to {one.share.high * 10_000:,.0f}"),
            Cell.of(one.changed),
        ]
        for one in summary.false_fires
        if one.checkpoint == run.last
    ]
    header = ["arm", "negatives", "protocol", "fired", "per 10,000", "answers changed"]
    return Section(
        "false-fires",
        "Where no edit may fire",
        "Unrelated: nothing in common with an edit. Near: the same form of question about another subject. Same "
        "subject: another question about the subject of an edit. Ordinary: prompts of everyday use. Ability: general "
        "questions. Short: the first one to three tokens of an edited prompt, too little to say which edit is meant.",
        [Table("", header, rows)],
        false_fire_curves(summary),
    )


def _equal(run: Run, summary: Summary) -> Section:
    rows: list[Row] = [
        [
            one.arm,
            one.protocol,
            words.kind(one.negatives),
            "any number" if one.rate is None else f"at most {one.rate * 100:g} %",
            _limit(one),
            Cell.of(one.negatives_fire),
            Cell.of(one.reliability),
            Cell.of(one.generalisation),
        ]
        for one in summary.equal_rates
        if one.checkpoint == run.last
    ]
    header = [
        "arm",
        "protocol",
        "negatives",
        "negatives that may fire",
        "score must be above",
        "negatives that fire",
        "reliability",
        "generalisation",
    ]
    return Section(
        "equal-rates",
        "At equal false-fire rates",
        "Thresholds differ between arms; rates can be made equal, by a higher limit on the score. Where a codebook's "
        "own threshold already lets no more negatives fire than that, there is nothing to raise: the row says so, its "
        "numbers are those of the own threshold and not of 1 % or 5 %, and its points are hollow. A lower threshold "
        "might give more, and cannot be tried afterwards. What no edit answers counts as the base model answered it. "
        "Of fewer than 100 negatives, at most 1 % means none.",
        [Table("", header, rows)],
        equal_rate_curves(summary),
    )


def _limit(one: EqualRate) -> Cell | str:
    if one.rate is None:
        return "own threshold"
    if one.bounded_by_own_threshold:
        return Cell("own threshold", "lets no more fire: same numbers")
    return "" if one.limit is None else f"{one.limit:.4f}"


def _continuations(last: Sequence[Group]) -> Section:
    found = [group for group in last if group.kind is QuestionKind.CONTINUE]
    metrics = ("long_enough", "repetition", "ngram_entropy", "contains", "stopped")
    return Section(
        "continuations",
        "After the answer",
        "Continuations of edited prompts, of the same length for all arms. Read them beside the base model's: "
        "repetition much above its, or entropy much below, is an edit that harms what follows. Both are of the answers "
        "that are long enough; in runs of the first version, whose answers ended where the model liked, those are few.",
        tables=[_grid("", found, metrics)],
    )


def _ability(last: Sequence[Group]) -> Section:
    found = [group for group in last if group.kind is QuestionKind.ABILITY]
    metrics = ("unchanged", "locality", "fired", "contains", "normalised")
    return Section(
        "ability",
        "General ability",
        "General questions with the full codebook loaded.",
        tables=[_grid("", found, metrics)],
    )


def _ageing(last: Sequence[Group], summary: Summary) -> Section:
    ages: list[Row] = [
        [
            one.arm,
            one.protocol,
            Cell.of(one.bands[0].worth),
            Cell.of(one.bands[-1].worth),
            Cell.of(one.older_minus_newer),
        ]
        for one in summary.forgetting
        if len(one.bands) > 1
    ]
    restored = [group for group in last if group.kind in {QuestionKind.SUPERSEDED, QuestionKind.ROLLED_BACK}]
    metrics = ("token_accuracy", "normalised", "right_edit", "rougeL", "unchanged", "fired")
    return Section(
        "ageing",
        "Forgetting, superseding and rolling back",
        "Superseded: the prompt after another edit of it; its new answer is the right one. Rolled back: the prompt "
        "after a rollback to the empty codebook; the base model's answer is the right one.",
        [
            Table(
                "Reliability by age of the edit",
                ["arm", "protocol", "oldest tenth", "newest tenth", "older half less newer half"],
                ages,
            ),
            _grid("After another edit, and after a rollback", restored, metrics),
        ],
        age_curves(summary),
    )


def _judged(
    groups: Iterable[Group],
    kinds: Sequence[QuestionKind],
    *,
    only: Protocol | None = None,
    needs: Sequence[QuestionKind] = (),
) -> list[Table]:
    found = [group for group in groups if group.kind in kinds and only in {None, group.protocol}]
    if needs and not any(group.kind in needs for group in found):
        return []
    return [
        _grid(f"{protocol} protocol", [group for group in found if group.protocol is protocol], metrics)
        for protocol, metrics in _WORTH.items()
        if any(group.protocol is protocol for group in found)
    ]


def _grid(title: str, groups: Sequence[Group], metrics: Sequence[str]) -> Table:
    """Return a table with a line for each group and a column for each metric that one of them has."""
    shown = [name for name in metrics if any(name in group.metrics for group in groups)]
    ordered = sorted(groups, key=lambda group: list(QuestionKind).index(group.kind))
    protocols = {group.protocol for group in groups}
    rows: list[Row] = [
        [
            words.kind(group.kind),
            group.arm,
            *([group.protocol] if len(protocols) > 1 else []),
            *(Cell.of(group.metrics.get(name)) for name in shown),
        ]
        for group in ordered
    ]
    header = ["question", "arm", *(["protocol"] if len(protocols) > 1 else []), *map(words.metric, shown)]
    return Table(title, header, rows)
