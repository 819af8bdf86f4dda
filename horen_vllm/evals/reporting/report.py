"""The report of a run: one HTML file that opens without a server and fetches nothing."""

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from horen_vllm.evals.reporting import words
from horen_vllm.evals.reporting.costs_section import costs, defects, making
from horen_vllm.evals.reporting.failures import PASSAGE_BOUND, failures
from horen_vllm.evals.reporting.files import write_whole
from horen_vllm.evals.reporting.run_info import REPORT_FILE, SUMMARY_FILE
from horen_vllm.evals.reporting.run_records import Run, load_run
from horen_vllm.evals.reporting.sections import quality
from horen_vllm.evals.reporting.summary import as_text, summarise
from horen_vllm.evals.reporting.summary_parts import Summary

TEMPLATE: Final = "report.html.j2"


def write_report(folder: Path) -> Summary:
    """Write ``summary.json`` and ``report.html`` of the run in `folder`, finished or not; errors as `load_run`."""
    run = load_run(folder)
    summary = summarise(run)
    write_whole(folder / SUMMARY_FILE, as_text(summary))
    write_whole(folder / REPORT_FILE, render(run, summary))
    return summary


def render(run: Run, summary: Summary) -> str:
    """Return the report as HTML; whatever a model answered stands in it as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [*quality(run, summary), *costs(summary), defects(summary), making(summary)]
    return environment.get_template(TEMPLATE).render(
        run=summary.run,
        summary=summary,
        sections=[section for section in sections if section],
        failures=list(failures(run)),
        meanings=words.MEANINGS,
        kind=words.kind,
        passage_bound=PASSAGE_BOUND,
    )
