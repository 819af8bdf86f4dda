"""The report's sections on what a run took, and on how it was made."""

import json
from collections.abc import Iterator

from horen_vllm.evals.reporting import words
from horen_vllm.evals.reporting.curves import growth_curves
from horen_vllm.evals.reporting.pages import Cell, Row, Section, Table
from horen_vllm.evals.reporting.summary_parts import Editing, Growth, Spread, Summary


def costs(summary: Summary) -> Iterator[Section]:
    """Yield the sections on edits and on time, and the one with every number."""
    yield Section(
        "edits",
        "Edits",
        tables=[_editing(summary), _failures(summary), _growth(summary)],
        plots=growth_curves(summary),
    )
    yield _latency(summary)
    yield _everything(summary)


def making(summary: Summary) -> Section:
    """Return the section on how the run was made."""
    run, data = summary.run, summary.run.dataset
    facts = [
        ("command", run.command),
        ("data", f"{data.name}: {data.path}, layout {data.layout or 'unknown'}, {data.cases:,} cases"),
        ("SHA-256 of the data", data.sha256),
        *(("other data", other) for other in data.others),
        ("model", run.model.name),
        *([("tokenizer", run.model.tokenizer)] if run.model.tokenizer else []),
        *([("fingerprint", run.model.fingerprint)] if run.model.fingerprint else []),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
        ("machine", run.machine),
        *([("asking", json.dumps(run.asking.model_dump()))] if run.asking else []),
        ("seeds", ", ".join(f"{name}: {seed}" for name, seed in run.seeds.items())),
        ("seed of the intervals", str(summary.bootstrap_seed)),
        ("started", run.started_at.isoformat(timespec="seconds")),
        ("finished", run.finished_at.isoformat(timespec="seconds") if run.finished_at else "not yet"),
        ("answers", f"{summary.records:,}"),
    ]
    settings = [(name, json.dumps(value, ensure_ascii=False)) for name, value in sorted(run.settings.items())]
    arms = [
        [arm.name, arm.model, arm.codebook or "", json.dumps(arm.parameters, ensure_ascii=False, sort_keys=True)]
        for arm in run.arms
    ]
    times = [
        [time.name, time.arm or "", "" if time.checkpoint is None else f"{time.checkpoint:,}", f"{time.seconds:,.1f}"]
        for time in run.times
    ]
    return Section(
        "making",
        "How this was made",
        tables=[
            Table("", ["what", "value"], [fact for fact in facts if fact[1]]),
            Table("Settings", ["setting", "value"], settings),
            Table("Arms", ["arm", "asked as", "codebook", "method parameters"], arms),
            Table("Time", ["part", "arm", "edits", "seconds"], times),
        ],
    )


def defects(summary: Summary) -> Section:
    """Return the section on the defects of the data."""
    data = summary.run.dataset
    files = [(data.path, data.defects), *((it.path, it.defects) for it in data.files)]
    rows = [
        [path, one.kind, f"{one.count:,}", one.handling, "; ".join(one.examples)]
        for path, found in files
        for one in found
    ]
    return Section(
        "defects",
        "Defects of the data",
        tables=[Table("", ["file", "defect", "count", "what was done", "examples"], rows)],
    )


def _editing(summary: Summary) -> Table:
    rows = [
        [one.arm, f"{one.submitted:,}", f"{one.served:,}", f"{_failed(one):,}", *_seconds(one.seconds)]
        for one in summary.editing
    ]
    header = ["arm", "submitted", "served", "failed", "mean wait, s", "p50, s", "p99, s"]
    note = (
        "The wait is that of one edit from its submission until it was published or had failed. Edits are submitted "
        "all at once, so most of it is the queue; what an edit takes stands by checkpoint."
    )
    return Table("", header, rows, note)


def _failures(summary: Summary) -> Table:
    rows = [[one.arm, code, f"{count:,}"] for one in summary.editing for code, count in one.failures.items()]
    return Table("Edits that failed, by code", ["arm", "code", "edits"], rows)


def _growth(summary: Summary) -> Table:
    rows = [
        [
            one.arm,
            f"{at.checkpoint:,}",
            f"{at.entries:,}",
            *_bounds(at),
            "" if at.seconds is None else f"{at.seconds:,.1f}",
            "" if at.seconds_per_edit is None else f"{at.seconds_per_edit:.3f}",
            "" if at.memory_bytes is None else f"{at.memory_bytes / 2**20:,.1f}",
        ]
        for one in summary.editing
        for at in one.growth
    ]
    header = [
        "arm",
        "edits",
        "entries",
        "threshold",
        "with a subject",
        "since the last, s",
        "an edit, s",
        "in the server, MiB",
    ]
    note = (
        "Edits with a subject fire above the threshold for those, where there is one, and all others above the first. "
        "Time is wall clock from the first submission since the last checkpoint until all edits were served or had "
        "failed; an edit's is its share. Empty is what is not known: of edits that more than one start of the "
        "run submitted, or of a server that does not tell its memory."
    )
    return Table("By checkpoint", header, rows, note)


def _bounds(at: Growth) -> tuple[str, str]:
    """Return the thresholds of edits without and with a subject."""
    if at.radius is not None:
        return f"a radius each, first {at.radius:g}", ""
    alone, anchored = ("" if it is None else f"{it:.4f}" for it in (at.threshold, at.anchored_threshold))
    return alone, anchored


def _latency(summary: Summary) -> Section:
    rows = [
        [
            one.arm,
            one.protocol,
            f"{one.seconds.count:,}",
            f"{one.tokens:.1f}",
            *_seconds(one.seconds),
            "" if one.lookup_seconds is None else f"{one.lookup_seconds:.4f}",
        ]
        for one in summary.latency
    ]
    header = ["arm", "protocol", "answers", "tokens an answer", "mean, s", "p50, s", "p99, s", "finding the facts, s"]
    return Section(
        "latency",
        "Latency",
        "Time from request to whole answer, as the client saw it under the run's own load. Each arm is asked in a "
        "phase of its own, at another time, on a server that may have had other work, and answers differ in length: "
        "these numbers say how long the run's requests took, and not what one arm costs more than another. That "
        "comparison is what bench/serving.py measures (docs/benchmarks.md).",
        [Table("", header, rows)],
    )


def _everything(summary: Summary) -> Section:
    rows: list[Row] = [
        [
            group.arm,
            f"{group.checkpoint:,}",
            group.protocol,
            words.kind(group.kind),
            words.metric(name),
            Cell.of(number),
            number.method,
        ]
        for group in summary.groups
        for name, number in group.metrics.items()
    ]
    header = ["arm", "edits", "protocol", "question", "metric", "mean", "interval by"]
    return Section("everything", "Every number", tables=[Table("", header, rows)], folded=True)


def _seconds(spread: Spread | None) -> list[str]:
    return [""] * 3 if spread is None else [f"{value:.3f}" for value in (spread.mean, spread.p50, spread.p99)]


def _failed(one: Editing) -> int:
    return one.submitted - one.served
