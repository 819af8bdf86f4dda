"""The demo's table and verdict, for a person."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from horen_vllm.cli.demo_run import DemoReport, DemoRow
from horen_vllm.evals.endpoint import Answer

_COLUMNS = ("question", "before", "target", "after", "paraphrase", "unrelated: before > after", "rolled back", "s")


def print_table(report: DemoReport, console: Console) -> None:
    """Print one row for each edit and the counts below."""
    table = Table(title=f"preset {report.preset}, threshold {report.threshold:g}", show_lines=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column == "s" else "left", overflow="fold")
    for row in report.rows:
        table.add_row(*_cells(row))
    console.print(table)
    for line in _summary(report):
        console.print(line)


def _cells(row: DemoRow) -> list[Text | str]:
    choice = row.choice
    after = _marked(row.after.text, good=row.reached) if row.failure is None else _marked(row.failure, good=False)
    unrelated = f"{row.unrelated_before.text} > {_fired(row.unrelated_after)}"
    return [
        choice.prompt,
        row.before.text,
        choice.target,
        after,
        _marked(_fired(row.paraphrase), good=row.paraphrase.text == choice.target),
        _marked(unrelated, good=row.untouched),
        _marked(row.restored.text, good=row.undone),
        f"{row.seconds:.1f}",
    ]


def _fired(answer: Answer) -> str:
    return f"{answer.text} [fired]" if answer.fired else answer.text


def _marked(text: str, *, good: bool) -> Text:
    return Text(text, style="green" if good else "red")


def _summary(report: DemoReport) -> list[str]:
    rows, total = report.rows, len(report.rows)
    fires = sum(row.unrelated_after.fired for row in rows)
    silent = sum(row.untouched and not row.unrelated_after.fired for row in rows)
    paraphrases = sum(row.paraphrase.text == row.choice.target for row in rows)
    return [
        f"edited questions that answer their target: {sum(row.reached for row in rows)} of {total}",
        f"paraphrases that answer it too: {paraphrases} of {total}",
        f"unrelated questions: {fires} of {total} fired; {silent} of the other {total - fires} are token-identical",
        f"answers restored by rollback: {sum(row.undone for row in rows)} of {total}",
        f"from submission to the first edited answer: median {report.median_seconds:.1f} s",
        "PASSED" if report.passed else "FAILED",
    ]
