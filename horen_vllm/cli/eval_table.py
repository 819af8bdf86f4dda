"""What ``horen eval`` prints: the end of a run, and two runs beside each other."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import typer

from horen_vllm.cli.output import print_json, print_rows
from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.reporting.compare import Compared, compare_folders
from horen_vllm.evals.reporting.report import write_report
from horen_vllm.evals.reporting.run_info import REPORT_FILE, SUMMARY_FILE
from horen_vllm.evals.reporting.summary_parts import Number, Overall, Summary

_LONGEST: Final = 100
"""Characters of a setting that are printed."""


def write_results(folder: Path, *, as_json: bool) -> None:
    """Write summary and report of a run, and print what it comes to at its last checkpoint."""
    summary = write_report(folder)
    if as_json:
        print_json(summary.model_dump(mode="json", exclude_none=True))
        return
    last = max((one.checkpoint for one in summary.overall), default=0)
    columns = (
        ("ARM", lambda row: row.arm),
        ("PROTOCOL", lambda row: row.protocol),
        ("RELIABILITY", lambda row: _number(row.reliability)),
        ("GENERALISATION", lambda row: _number(row.generalisation)),
        ("LOCALITY", lambda row: _number(row.locality)),
        ("OP", lambda row: _number(row.op)),
        ("FALSE FIRES", lambda row: _false_fires(summary, row)),
    )
    typer.echo(f"after {last:,} edits, shares with 95 % intervals:")
    print_rows([one for one in summary.overall if one.checkpoint == last], columns, as_json=False)
    for protocol, source in dict.fromkeys((one.protocol, one.locality_of) for one in summary.overall):
        if source is not None:
            typer.echo(f"locality of {protocol}: {source}")
    for one in summary.editing:
        failed = ", ".join(f"{count} {code}" for code, count in sorted(one.failures.items())) or "none failed"
        typer.echo(f"{one.arm}: {one.served} of {one.submitted} edits served; {failed}")
    for note in summary.run.notes:
        typer.echo(f"note: {note}")
    if not summary.finished:
        typer.echo("the run is not finished: the command that began it goes on with it")
    typer.echo(f"{folder / SUMMARY_FILE}\n{folder / REPORT_FILE}")


def print_comparison(first: Path, second: Path, arms: Sequence[str], *, as_json: bool) -> None:
    """Print two runs beside each other; errors as `compare_folders`."""
    comparison = compare_folders(first, second, _pairs(arms))
    if as_json:
        print_json(comparison.model_dump(mode="json", exclude_none=True))
        return
    for differing in comparison.differing:
        typer.echo(f"{differing.name}: {_clipped(differing.first)} / {_clipped(differing.second)}")
    columns = (
        ("ARM", _arms),
        ("N", lambda row: row.checkpoint),
        ("PROTOCOL", lambda row: row.protocol),
        ("KIND", lambda row: row.kind),
        ("METRIC", lambda row: row.metric),
        ("A", lambda row: f"{row.first.value:.3f}"),
        ("B", lambda row: f"{row.second.value:.3f}"),
        ("B - A", lambda row: _number(row.difference)),
        ("PAIRED", lambda row: "yes" if row.paired else "no"),
        ("BETTER", lambda row: row.better if row.paired else None),
        ("WORSE", lambda row: row.worse if row.paired else None),
        ("P", lambda row: None if row.p_value is None else f"{row.p_value:.2g}"),
    )
    print_rows(comparison.compared, columns, as_json=False)
    if any(row.paired for row in comparison.compared):
        typer.echo(
            "BETTER, WORSE: cases whose mean is higher or lower in B; P: sign test of the two, one of many lines"
        )
    for name, only in (("A", comparison.only_first), ("B", comparison.only_second)):
        if only:
            typer.echo(f"only in {name}: {', '.join(only)}")
    for name, lone in (("A", comparison.metrics_only_first), ("B", comparison.metrics_only_second)):
        for metric, groups in _by_metric(lone).items():
            typer.echo(f"metric only in {name}: {metric}, of {', '.join(groups)}")


def _clipped(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _by_metric(names: Sequence[str]) -> dict[str, list[str]]:
    """Return metric to groups, of names such as ``ARM/CHECKPOINT/PROTOCOL/KIND/METRIC``."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        group, _, metric = name.rpartition("/")
        found[metric].append(group)
    return dict(found)


def _pairs(arms: Sequence[str]) -> dict[str, str] | None:
    pairs = dict(arm.partition("=")[::2] for arm in arms)
    if not all(pairs.values()):
        raise InvalidArgument("an arm of either run is named as A=B.", code="invalid_arms")
    return pairs or None


def _arms(row: Compared) -> str:
    return row.first_arm if row.first_arm == row.second_arm else f"{row.first_arm} / {row.second_arm}"


def _number(number: Number | None) -> str | None:
    return None if number is None else f"{number.value:.3f} [{number.low:.3f}, {number.high:.3f}]"


def _false_fires(summary: Summary, row: Overall) -> str | None:
    """Return how often an edit fires where none may, kind by kind, of the negatives at the same checkpoint."""
    found = [
        f"{one.kind} {one.fired}/{one.share.count}"
        for one in summary.false_fires
        if (one.arm, one.checkpoint) == (row.arm, row.checkpoint) and one.protocol == "fire"
    ]
    return ", ".join(found) or None
