"""Ablations of routing: pooling, refinement, normalisation, precision, fitted space, site and subject mask.

``python -m bench.ablations MODEL EDITS.jsonl UNRELATED.jsonl`` draws edits (prompt, rephrase, subject) and questions
from the files, runs the model once over each draw, and routes the rephrases and the unedited questions in every
variant. No value is trained. The rephrases should be unseen: ``--every`` picks the rows that edits come from.
Writes ``bench/results/ablations.json``, ``ablations.md`` and ``ablations-*.png``.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console

from bench.ablation_data import draw
from bench.ablation_features import Extractor, Features
from bench.ablation_keyer import IDENTITY, JOINED, WHITENED
from bench.ablation_report import Panel, draw_panels, markdown, show
from bench.ablation_scores import Measures, pooled
from bench.ablation_sections import ABOUT, SECTIONS
from bench.carry_over import lines
from bench.provenance import provenance, write_result
from horen_vllm.editor.loading.model import load_editable_model

_SPACES: Final = {name: name for name in (IDENTITY, WHITENED, JOINED)}
_STEPS: Final = {f"{IDENTITY}, gamma {gamma}": f"gamma {gamma}" for gamma in (0.01, 0.1)}


def _in_spaces(section: str, x: str) -> list[Panel]:
    return [Panel(section, f"recall at {at} % near", x, {f"recall_at_{at}": ""}, _SPACES) for at in (5, 1)]


def _fitted(x: str, *, log: bool = False) -> Panel:
    series = {f"{x}, {name}": name for name in (WHITENED, JOINED)}
    return Panel("fitted", "recall at 5 % near", x, {"recall_at_5": ""}, series, log)


PLOTS: Final = {
    "pooling": _in_spaces("pooling", "pooled, %"),
    "steps": [
        Panel("steps", "recall", "steps", {"recall_at_5": "at 5 % near", "recall_same_c": "same c"}, _STEPS),
        Panel(
            "steps", "false fires, same c", "steps", {"near_same_c": "near", "unrelated_same_c": "unrelated"}, _STEPS
        ),
    ],
    "fitted": [
        _fitted("rank"),
        _fitted("shrinkage", log=True),
        _fitted("background prompts", log=True),
        Panel(
            "fitted",
            "recall",
            "word share",
            {f"recall_at_{at}": f"at {at} % near" for at in (5, 1)},
            {"word share": ""},
        ),
    ],
    "sites": _in_spaces("sites", "layer"),
}
"""What is plotted of some sections; same c: the one that is fitted without a step."""


def measure_draw(features: Features, console: Console) -> dict[str, dict[tuple[str, float | str], Measures]]:
    """Return what every section measures on one draw, by section and row."""
    found = {}
    for section in SECTIONS:
        started = time.process_time()
        found[section.name] = {(series, x): measures for series, x, measures in section.measure(features)}
        console.print(f"  {section.name}: {time.process_time() - started:.1f} s of CPU time")
    return found


def together(
    draws: Sequence[Mapping[str, Mapping[tuple[str, float | str], Measures]]],
) -> dict[str, list[dict[str, Any]]]:
    """Return each section's rows over all draws."""
    return {
        name: [
            {"series": series, "x": x, **pooled([drawn[name][series, x] for drawn in draws])}
            for series, x in draws[0][name]
        ]
        for name in draws[0]
    }


def write_all(out: Path, result: dict[str, Any]) -> None:
    """Write the result, its page and its plots beside each other."""
    write_result(out, result)
    names = {}
    for name, panels in PLOTS.items():
        path = out.with_name(f"{out.stem}-{name}.png")
        draw_panels(path, panels, result["sections"])
        names[name] = path.name
    out.with_suffix(".md").write_text(markdown(result, SECTIONS, names), encoding="utf-8")


def main(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    edits: Annotated[Path, typer.Argument(help="JSON lines with prompt, rephrase and subject.")],
    unrelated: Annotated[Path, typer.Argument(help="JSON lines with prompt.")],
    count: Annotated[int, typer.Option("--edits", help="Edits of a draw.")] = 500,
    asked: Annotated[int, typer.Option(help="Questions of each other kind.")] = 1000,
    every: Annotated[int, typer.Option(help="Edits come from every n-th row: those with unseen rephrases.")] = 5,
    seed: Annotated[list[int] | None, typer.Option(help="Draws.")] = None,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/ablations.json"),
) -> None:
    """Run every section on every draw and write all results."""
    torch.set_num_threads(threads)
    started, console, seeds = time.process_time(), Console(width=150), seed or [1, 2, 3]
    extractor = Extractor(load_editable_model(str(model)))
    rows, other = lines(edits), [row["prompt"] for row in lines(unrelated)]
    draws = []
    for number in seeds:
        console.print(f"seed {number}")
        began = time.process_time()
        features = extractor.features(draw(rows, other, edits=count, asked=asked, every=every, seed=number))
        console.print(f"  the model's passes: {time.process_time() - began:.1f} s of CPU time")
        draws.append(measure_draw(features, console))
    result = {
        **provenance(),
        "model": model.name,
        "edits": count,
        "asked": asked,
        "every": every,
        "seeds": seeds,
        "threads": threads,
        "cpu_seconds": round(time.process_time() - started, 1),
        "about": ABOUT,
        "sections": together(draws),
    }
    write_all(out, result)
    for section in SECTIONS:
        show(console, section, result["sections"][section.name])


if __name__ == "__main__":
    typer.run(main)
