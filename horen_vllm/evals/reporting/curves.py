"""Which curves and histograms a summary and its records are drawn as."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from horen_vllm.evals.records import Protocol, QuestionKind
from horen_vllm.evals.reporting import words
from horen_vllm.evals.reporting.plots import Curves, Histogram, Plot, draw_curves, draw_histograms
from horen_vllm.evals.reporting.run_records import Run
from horen_vllm.evals.reporting.summary_parts import EqualRate, Growth, Number, Summary

_Row = TypeVar("_Row")
_SCORED: Final = (
    QuestionKind.EDIT,
    QuestionKind.REPHRASE,
    QuestionKind.UNRELATED,
    QuestionKind.NEAR,
    QuestionKind.SAME_SUBJECT,
    QuestionKind.ORDINARY,
)
_ASKED_ALIKE: Final = {
    "completions": (Protocol.PAPER,),
    "chats": (Protocol.STRICT, Protocol.PASSAGE, Protocol.FIRE),
}
"""Protocols whose questions are routed alike: a score depends on what stands around the question."""


def overall_curves(summary: Summary) -> list[Plot]:
    """Return reliability, generalisation, locality and OP against the number of edits, a plot for each protocol."""
    found = []
    for protocol in dict.fromkeys(one.protocol for one in summary.overall):
        rows = [one for one in summary.overall if one.protocol is protocol]
        sides: dict[str, Callable[..., Number | None]] = {
            "reliability": lambda one: one.reliability,
            "generalisation": lambda one: one.generalisation,
            "locality": lambda one: one.locality,
            "OP": lambda one: one.op,
        }
        panels = [
            Curves(f"{name} ({protocol})", _lines(rows, lambda one: (one.arm, one.checkpoint), number))
            for name, number in sides.items()
        ]
        found += _drawn(
            summary, panels, f"Reliability, generalisation, locality and OP by number of edits, {protocol} protocol"
        )
    return found


def false_fire_curves(summary: Summary) -> list[Plot]:
    """Return the share of negatives that fire against the number of edits, a panel for each kind."""
    kinds = dict.fromkeys((one.protocol, one.kind) for one in summary.false_fires)
    panels = [
        Curves(
            f"{words.kind(kind)} ({protocol})",
            _lines(
                [one for one in summary.false_fires if (one.protocol, one.kind) == (protocol, kind)],
                lambda one: (one.arm, one.checkpoint),
                lambda one: one.share,
            ),
            y="share that fires",
            shares=False,
        )
        for protocol, kind in kinds
    ]
    return _drawn(
        summary,
        panels,
        "Share of the negatives for which an edit fires, by number of edits; each panel has its own scale",
    )


def equal_rate_curves(summary: Summary) -> list[Plot]:
    """Return generalisation against the number of edits, at the own threshold and at equal rates.

    Points are hollow where the own threshold lets no more negatives fire: they are what stands in the first panel.
    """
    found = []
    for protocol, kind in dict.fromkeys((one.protocol, one.negatives) for one in summary.equal_rates):
        rows = [one for one in summary.equal_rates if (one.protocol, one.negatives) == (protocol, kind)]
        panels = [
            Curves(
                "at the own threshold" if rate is None else f"{words.kind(kind)}: at most {rate * 100:g} % fire",
                _lines(
                    [one for one in rows if one.rate == rate],
                    lambda one: (one.arm, one.checkpoint),
                    lambda one: one.generalisation,
                ),
                y="generalisation",
                hollow=_hollow([one for one in rows if one.rate == rate]),
                hollow_means="hollow: at its own threshold, which lets no more fire anyway",
            )
            for rate in dict.fromkeys(one.rate for one in rows)
        ]
        found += _drawn(
            summary, panels, f"Generalisation by number of edits, {protocol} protocol, {words.kind(kind)} negatives"
        )
    return found


def age_curves(summary: Summary) -> list[Plot]:
    """Return reliability against the place in the stream, a panel for each protocol."""
    panels = []
    for protocol in dict.fromkeys(one.protocol for one in summary.forgetting):
        lines = {
            one.arm: [((band.first + band.last) / 2, band.worth) for band in one.bands]
            for one in summary.forgetting
            if one.protocol is protocol and len(one.bands) > 1
        }
        panels.append(Curves(f"{protocol} protocol", lines, x="place in the stream", y="reliability", log=False))
    return _drawn(summary, panels, "Reliability by place of the edit in the stream, oldest first")


def growth_curves(summary: Summary) -> list[Plot]:
    """Return memory, and time an edit, against the number of edits."""
    growth = [(one.arm, state) for one in summary.editing for state in one.growth]

    def exact(value: float | None) -> Number | None:
        return None if value is None else Number(value=value, low=value, high=value, count=1, method="bootstrap")

    panels = [
        Curves(
            "time",
            _lines(growth, lambda one: (one[0], one[1].checkpoint), lambda one: exact(one[1].seconds_per_edit)),
            y="seconds an edit",
            shares=False,
        ),
        Curves(
            "memory",
            _lines(growth, lambda one: (one[0], one[1].checkpoint), lambda one: exact(_mebibytes(one[1].memory_bytes))),
            y="MiB of the server",
            shares=False,
        ),
    ]
    return _drawn(summary, panels, "Seconds an edit, and memory of the codebook in the server, by number of edits")


def score_histograms(run: Run, summary: Summary) -> list[Plot]:
    """Return the best scores at the last checkpoint, a panel for each arm and way to ask."""
    states = {one.arm: one.growth[-1] for one in summary.editing if one.growth}
    panels = []
    for arm in run.routed:
        for way, protocols in _ASKED_ALIKE.items():
            scores: dict[str, list[float]] = defaultdict(list)
            for kind in _SCORED:
                for protocol in protocols:
                    records = run.get(arm, run.last, protocol, kind)
                    found = [record.answer.score for record in records if record.answer.score is not None]
                    if found:
                        scores[words.kind(kind)] += found
            if scores:
                axis = "score: less the distance" if _by_distance(summary, arm) else "score: cosine"
                panels.append(Histogram(f"{arm}, {way}", dict(scores), _bounds(states.get(arm)), axis))
    return [draw_histograms(panels, "Histograms of the best score by kind of question")] if panels else []


def _bounds(state: Growth | None) -> dict[str, float]:
    """Return what the scores of a codebook must be above, by name."""
    if state is None:
        return {}
    alone = "threshold" if state.anchored_threshold is None else "threshold, edits without a subject"
    named = {alone: state.threshold, "threshold, edits with a subject": state.anchored_threshold}
    return {name: bound for name, bound in named.items() if bound is not None}


def _by_distance(summary: Summary, arm: str) -> bool:
    about = summary.run.arm(arm)
    return about is not None and about.parameters.get("radius") is not None


def _hollow(rows: Iterable[EqualRate]) -> dict[str, set[float]]:
    """Return the checkpoints of each arm at which its own threshold is the bound."""
    found: dict[str, set[float]] = defaultdict(set)
    for row in rows:
        if row.bounded_by_own_threshold:
            found[row.arm].add(row.checkpoint)
    return found


def _lines(
    rows: Iterable[_Row], place: Callable[[_Row], tuple[str, int]], number: Callable[[_Row], Number | None]
) -> dict[str, list[tuple[float, Number]]]:
    lines: dict[str, list[tuple[float, Number]]] = defaultdict(list)
    for row in rows:
        (arm, checkpoint), value = place(row), number(row)
        # A logarithmic axis has no place for no edits.
        if value is not None and checkpoint > 0:
            lines[arm].append((checkpoint, value))
    return {arm: sorted(points, key=lambda point: point[0]) for arm, points in lines.items()}


def _drawn(summary: Summary, panels: Sequence[Curves], alt: str) -> list[Plot]:
    shown = [panel for panel in panels if panel.lines]
    return [draw_curves(shown, alt, [arm.name for arm in summary.run.arms])] if shown else []


def _mebibytes(count: int | None) -> float | None:
    return None if count is None else count / 2**20
