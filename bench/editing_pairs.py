"""Paired rounds of the editing benchmark: the plain loop and the editor on the same edits, one after the other.

Three comparisons with one plain run a round: `engineering` (both sides the plain loop's steps, no stop, one context),
`early_stop` (the editor's stop rule, one context) and `product` (its stop rule and all contexts of the preset).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any, Final

from rich.console import Console
from rich.progress import track

from bench.editing_model import Subject
from bench.editing_sides import Book, SideRun, plain_run, successes
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.registry.models import EditRecord

PLAIN_STEPS: Final = 50
PLAIN: Final = "plain"
_VALUE_PHASES: Final = ("prepare", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How rounds are run."""

    rounds: int
    edits: int
    """Edits a round; every round has others, as long as there are."""
    batch: int
    """Most edits that the editor makes together."""
    limit_bytes: int
    """Memory limit of a chunk (`horen_vllm.editor.memory`)."""


@dataclass(slots=True)
class _Round:
    runs: dict[str, SideRun]
    success: dict[str, tuple[int, int]]


def side_parameters(product: MethodParameters) -> dict[str, MethodParameters]:
    """Return the parameters of every side; they differ in steps, stop and contexts only."""
    one_context = replace(product, chat=False, prefixes=0, noise=0.0)
    all_steps = replace(one_context, max_steps=PLAIN_STEPS, stop_loss=None, patience=None)
    return {PLAIN: all_steps, "engineering": all_steps, "early_stop": one_context, "product": product}


def measure_pairs(subject: Subject, setting: Setting, console: Console) -> dict[str, Any]:
    """Run all rounds and return the numbers of every side."""
    sides = side_parameters(subject.parameters)
    _warm_up(subject, sides, setting)
    rounds = []
    for number in track(range(setting.rounds), description=subject.name, console=console, transient=True):
        # Turned round every time, so that no side always has the same neighbour.
        order = list(sides)[:: -1 if number % 2 else 1]
        records = subject.take(number * setting.edits, setting.edits)
        rounds.append(_round(subject, {name: sides[name] for name in order}, records, setting))
    return {
        **subject.describe(),
        "rounds": setting.rounds,
        "edits_a_round": setting.edits,
        "batch": setting.batch,
        "memory_limit_mib": setting.limit_bytes // 2**20,
        "plain_loop": f"batch 1, {PLAIN_STEPS} steps, all layers, one context; +2 forward passes (rate, best iterate)",
        "sides": {name: _side(rounds, name, setting.edits) for name in sides},
    }


def _warm_up(subject: Subject, sides: dict[str, MethodParameters], setting: Setting) -> None:
    records = subject.take(0, 2)
    for name, parameters in sides.items():
        _run(subject, name, replace(parameters, max_steps=2), records, setting)


def _round(
    subject: Subject, sides: dict[str, MethodParameters], records: Sequence[EditRecord], setting: Setting
) -> _Round:
    runs = {name: _run(subject, name, parameters, records, setting) for name, parameters in sides.items()}
    editable = subject.editable
    return _Round(runs, {name: successes(editable, records, run, sides[name]) for name, run in runs.items()})


def _run(
    subject: Subject, name: str, parameters: MethodParameters, records: Sequence[EditRecord], setting: Setting
) -> SideRun:
    if name == PLAIN:
        return plain_run(subject.editable, records, parameters)
    return Book(subject.editable, parameters, MemoryLimit(setting.limit_bytes)).run(records, setting.batch)


def _side(rounds: Sequence[_Round], name: str, edits: int) -> dict[str, Any]:
    runs = [one.runs[name] for one in rounds]
    asked = edits * len(rounds)
    result = {
        "seconds_an_edit": median(run.seconds for run in runs) / edits,
        "edits_a_second": edits / median(run.seconds for run in runs),
        "success": sum(one.success[name][0] for one in rounds) / asked,
        "success_with_end": sum(one.success[name][1] for one in rounds) / asked,
        "refused": dict(sum((run.failed for run in runs), Counter())),
        "steps": median(step for run in runs for step in (run.steps or [0])),
        "contexts": fmean(count for run in runs for count in (run.contexts or [0])),
    }
    if name == PLAIN:
        return result
    pairs = [(one.runs[PLAIN], one.runs[name]) for one in rounds]
    return {
        **result,
        "times_faster": spread([plain.seconds / own.seconds for plain, own in pairs]),
        "times_faster_values_only": spread([plain.seconds / _values(own) for plain, own in pairs]),
        "times_faster_in_cpu_time": spread([plain.cpu_seconds / own.cpu_seconds for plain, own in pairs]),
        "times_faster_a_success": spread([ratio for one in rounds if (ratio := _a_success(one, name)) is not None]),
        "seconds_an_edit_by_phase": _phases(runs, edits),
    }


def _values(run: SideRun) -> float:
    return sum(run.phases[phase] for phase in _VALUE_PHASES)


def _a_success(one: _Round, name: str) -> float | None:
    plain, own = one.success[PLAIN][0], one.success[name][0]
    if not plain or not own:
        return None
    return (one.runs[PLAIN].seconds / plain) / (one.runs[name].seconds / own)


def _phases(runs: Sequence[SideRun], edits: int) -> dict[str, float]:
    names = sorted({phase for run in runs for phase in run.phases})
    named = {name: fmean(run.phases[name] for run in runs) / edits for name in names}
    return {**named, "other": fmean(run.seconds for run in runs) / edits - sum(named.values())}


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return median and range; None of nothing."""
    if not values:
        return None
    return {"median": median(values), "min": min(values), "max": max(values)}
