"""The demo's table and verdict, for a person."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from horen_vllm.cli.demo_run import DemoReport, DemoRow
from horen_vllm.evals.endpoint import Answer

_COLUMNS = ("question", "before", "target", "after", "paraphrase", "unrelated: before > after", "rolled back", "s")


def print_table(report: DemoReport, console: Console) -> None:
    """Print one row for each edit and the counts below."""
    thresholds = f"threshold {report.threshold:g}, with a subject {report.anchored_threshold:g}"
    table = Table(title=f"preset {report.preset}, {thresholds}", show_lines=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column == "s" else "left", overflow="fold")
    for row in report.rows:
        table.add_row(*_cells(row))
    console.print(table)
    for line in _summary(report):
        console.print(line)


def _cells(row: DemoRow) -> list[Text | str]:
    choice, edited, paraphrase, unrelated = row.choice, row.edited, row.paraphrase, row.unrelated
    after = _marked(edited.after.text, good=row.reached) if row.failure is None else _marked(row.failure, good=False)
    restored = all(one.undone for one in row.asked)
    return [
        choice.prompt,
        edited.before.text,
        choice.target,
        after,
        _marked(_fired(paraphrase.after), good=paraphrase.after.text == choice.target),
        _marked(f"{unrelated.before.text} > {_fired(unrelated.after)}", good=unrelated.untouched),
        _marked(edited.restored.text, good=restored),
        f"{row.seconds:.1f}",
    ]


def _fired(answer: Answer) -> str:
    return f"{answer.text} [fired]" if answer.fired else answer.text


def _marked(text: str, *, good: bool) -> Text:
    return Text(text, style="green" if good else "red")


def _summary(report: DemoReport) -> list[str]:
    rows, total = report.rows, len(report.rows)
    every = [one for row in rows for one in row.asked]
    silent = [one for one in every if not one.after.fired]
    paraphrases = sum(row.paraphrase.after.text == row.choice.target for row in rows)
    return [
        f"edited questions that answer their target: {sum(row.reached for row in rows)} of {total}",
        f"paraphrases in a wording that was not submitted: {paraphrases} of {total} answer it too",
        "(a wording that is submitted with the edit, as --paraphrase, must answer it before the edit is published)",
        f"unrelated questions on which an edit fired: {sum(row.unrelated.after.fired for row in rows)} of {total}",
        f"silent requests token-identical to before: {sum(one.untouched for one in silent)} of {len(silent)}",
        f"answers restored by rollback: {sum(one.undone for one in every)} of {len(every)}",
        f"from submission to the first edited answer: median {report.median_seconds:.1f} s",
        "PASSED" if report.passed else "FAILED",
    ]
