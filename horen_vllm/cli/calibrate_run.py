"""A calibration from its options: model loaded, presets fitted, compared, stored and shown."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from transformers.utils.logging import disable_progress_bar

from horen_vllm.artifacts.opening import ArtifactSource
from horen_vllm.cli.calibrate_table import print_comparison
from horen_vllm.cli.output import print_json
from horen_vllm.core.presets import CALIBRATED
from horen_vllm.editor.calibration.background import (
    BackgroundPrompt,
    builtin_background,
    check_background,
    load_background,
)
from horen_vllm.editor.calibration.calibrated import CalibrationSettings, calibrate_presets
from horen_vllm.editor.calibration.compare import ARMS, compare
from horen_vllm.editor.calibration.plot import write_plot
from horen_vllm.editor.calibration.results import Comparison
from horen_vllm.editor.calibration.stored import store_calibration, summary_of
from horen_vllm.editor.loading.model import load_editable_model
from horen_vllm.registry.models import CalibrationRecord
from horen_vllm.registry.store import SqlRegistry

_FIT_STAGES: Final = 6
"""The model is loaded, and five things are fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """What ``horen calibrate`` was told; the command's help says what each means."""

    folder: str
    site: str
    title: str
    """Name of the model for people."""
    background: Path | None
    settings: CalibrationSettings
    device: str
    dtype: str
    threads: int
    stores: tuple[str, ArtifactSource] | None
    """Database and artifact store; None: nothing is stored."""
    out: Path | None
    reports: Path
    """Folder in which each calibration has one for its plot, unless `out` names it."""
    compare: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOutcome:
    """What a calibration found."""

    record: CalibrationRecord | None
    """As stored; None when it was not."""
    comparison: Comparison | None
    recommended: str
    prompts: int
    seconds: float
    files: tuple[Path, ...]
    """Plot and numbers."""


def run_calibration(options: CalibrateOptions, *, as_json: bool) -> None:
    """Calibrate, and print what was found."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(options.threads)
    with _stages(_FIT_STAGES + (len(ARMS) if options.compare else 0)) as progress:
        outcome = calibrate_model(options, progress)
    if as_json:
        print_json(_as_json(outcome))
        return
    if outcome.comparison is not None:
        print_comparison(outcome.comparison, options.title)
    for line in _sentences(outcome, options):
        typer.echo(line)


def calibrate_model(options: CalibrateOptions, progress: Callable[[str], None]) -> CalibrationOutcome:
    """Fit, compare, store and plot; `progress` is told each stage that begins."""
    started = time.perf_counter()
    prompts = _prompts(options.background)
    registry = SqlRegistry(options.stores[0]) if options.stores else None
    try:
        if registry is not None:
            registry.check_schema()
        progress("loading the model")
        editable = load_editable_model(options.folder, options.site, getattr(torch, options.dtype), options.device)
        calibration = calibrate_presets(editable, options.folder, prompts, options.settings, progress=progress)
        comparison = compare(editable, calibration, options.settings, progress=progress) if options.compare else None
        recommended = comparison.recommended if comparison else CALIBRATED
        record = None
        if registry is not None and options.stores is not None:
            numbers = comparison.to_dict(curves=False) if comparison else None
            summary = summary_of(options.settings, len(prompts), numbers)
            artifacts = options.stores[1].open()
            record = store_calibration(registry, artifacts, editable, calibration, recommended, summary)
    finally:
        if registry is not None:
            registry.close()
    files = _write(comparison, options, record)
    seconds = time.perf_counter() - started
    return CalibrationOutcome(
        record=record,
        comparison=comparison,
        recommended=recommended,
        prompts=len(prompts),
        seconds=seconds,
        files=files,
    )


def _prompts(background: Path | None) -> tuple[BackgroundPrompt, ...]:
    prompts = builtin_background() if background is None else load_background(background)
    check_background(prompts)
    return prompts


def _write(
    comparison: Comparison | None, options: CalibrateOptions, record: CalibrationRecord | None
) -> tuple[Path, ...]:
    if comparison is None:
        return ()
    # Versions count anew for each base model, and a home may have seen several.
    name = f"{record.version}-{record.fingerprint[:8]}" if record else "not-stored"
    folder = options.out or options.reports / name
    folder.mkdir(parents=True, exist_ok=True)
    return write_plot(comparison, options.title, folder)


def _sentences(outcome: CalibrationOutcome, options: CalibrateOptions) -> Iterator[str]:
    if options.compare and outcome.comparison is None:
        yield "not compared: too few of the prompts that were held out have another wording (rephrases)."
    if outcome.comparison is not None and (better := outcome.comparison.better_with_subjects) is not None:
        found = f"{better.recall.share:.0%} of the rephrases"
        yield f"where edits have their subject, preset {better.preset} reaches more ({found}): name it with --preset."
    yield from (f"written: {file}" for file in outcome.files)
    yield f"calibrated on {outcome.prompts} {options.settings.source} prompts in {outcome.seconds:.0f} s."
    if outcome.record is None:
        yield f"recommended: {outcome.recommended}. Nothing was stored."
        return
    parameters = outcome.record.presets[outcome.recommended]
    rate = parameters.false_fire_rate
    threshold = f"threshold {parameters.threshold:g}" if rate is None else f"a threshold for {rate:.2%} false fires"
    yield (
        f"calibration {outcome.record.version} is stored: `horen codebook create NAME` now makes codebooks with preset "
        f"{outcome.recommended} and {threshold}; those that exist stay as they are."
    )


def _as_json(outcome: CalibrationOutcome) -> dict[str, Any]:
    return {
        "record": outcome.record,
        "recommended": outcome.recommended,
        "prompts": outcome.prompts,
        "seconds": round(outcome.seconds, 1),
        "files": [str(file) for file in outcome.files],
        "comparison": outcome.comparison.to_dict(curves=False) if outcome.comparison else None,
    }


@contextmanager
def _stages(total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar that moves with every stage."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, completed=-1)
        yield lambda stage: bar.update(task, description=stage, advance=1)
