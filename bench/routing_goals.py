"""Routing quality end to end: edits through gRPC, questions through the OpenAI API, thresholds from disjoint rows.

``python -m bench.routing_goals MODEL EDITS.jsonl UNRELATED.jsonl`` writes ``bench/results/routing_goals.json``.
For every number of edits and every seed, a fresh system serves three codebooks of the same edits: `calibrated` with
the subjects given and without, and the paper's routing (its keys and its refinement, with the values of the other two,
so that routing alone differs). All thresholds come from one false-fire rate on the same background.
``--growth`` asks at several sizes of one codebook how often unedited questions fire, against a target of 5 %.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console

from bench.carry_over import lines
from bench.provenance import provenance, write_result
from bench.routing_asks import ask_all, at_equal_rates, measured, rate, same_subject_at_recall
from bench.routing_data import RoutingData, draw
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.cli.server_command import ServerDtype
from horen_vllm.cli.stack import Stack, StackSettings
from horen_vllm.control.client import EditProgress, HorenClient
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.calibration.calibrated import (
    DEFAULT_SUBJECT_RATE,
    CalibratedPreset,
    Calibration,
    CalibrationSettings,
    calibrate_presets,
)
from horen_vllm.editor.calibration.sampler import Sampler
from horen_vllm.editor.codebook.arena import KeyArena
from horen_vllm.editor.codebook.false_fires import RefinedFalseFires
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.evals.endpoint import Endpoint
from horen_vllm.registry.models import EditSpec
from horen_vllm.registry.store import SqlRegistry

NEAR_RATE: Final = 0.05
GROWTH: Final = (10, 100, 1000, 5000)
PAPER: Final = "paper-routing"
MOST_COMPARED: Final = 1000
"""Edits up to which, in the first draw, all presets are measured, not only those that the goals are about."""


@dataclass(frozen=True, slots=True)
class Run:
    """What stays the same for one draw of the edits."""

    stack: Stack
    client: HorenClient
    data: RoutingData
    most: int
    console: Console


def main(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    edits: Annotated[Path, typer.Argument(help="JSON lines with prompt, target, rephrase and subject.")],
    unrelated: Annotated[Path, typer.Argument(help="JSON lines with prompt.")],
    count: Annotated[list[int] | None, typer.Option(help="Numbers of edits.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Draws.")] = None,
    asked: Annotated[int, typer.Option(help="Unedited questions of each kind.")] = 1500,
    most: Annotated[int, typer.Option(help="Edits, and rephrases, that are asked at most.")] = 1000,
    subject_rate: Annotated[float, typer.Option(help="As `horen calibrate --subject-rate`.")] = DEFAULT_SUBJECT_RATE,
    growth: Annotated[bool, typer.Option(help="Also measure the target of 5 % at growing sizes.")] = True,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/routing_goals.json"),
) -> None:
    """Run everything; the result is written after every draw."""
    torch.set_num_threads(1)
    console, editable = Console(), load_editable_model(str(model))
    rows, other = lines(edits), [row["prompt"] for row in lines(unrelated)]
    result: dict[str, Any] = {**provenance(), "model": model.name, "near_rate": NEAR_RATE, "runs": [], "growth": []}
    for number in count or [500, 5000]:
        for draw_seed in seed or [1, 2, 3]:
            data = draw(rows, other, edits=number, asked=asked, seed=draw_seed)
            console.print(f"{number} edits, seed {draw_seed}: {len(data.background)} background prompts")
            settings = CalibrationSettings(
                # Half of the background is near, and unrelated prompts hardly fire.
                false_fire_rate=NEAR_RATE / 2,
                subject_rate=subject_rate,
                seed=draw_seed,
                held_out_share=0.0,
                source="draw",
            )
            found = one_draw(model, editable, data, settings, most, console, growth=growth and number == max(GROWTH))
            result["runs"].append({"edits": number, "seed": draw_seed, **found["books"]})
            result["growth"] += found["growth"]
            write_result(out, result)


def one_draw(
    model: Path,
    editable: EditableModel,
    data: RoutingData,
    settings: CalibrationSettings,
    most: int,
    console: Console,
    *,
    growth: bool,
) -> dict[str, Any]:
    """Serve the codebooks of one draw and measure them."""
    calibration = calibrate_presets(editable, model.name, data.background, settings)
    with tempfile.TemporaryDirectory(prefix="horen-routing-") as home:
        setup = StackSettings(
            model=model,
            home=Path(home),
            name="model",
            port=0,
            control_port=0,
            dtype=ServerDtype.FLOAT32,
        )
        with Stack(setup) as stack:
            store(stack, editable, calibration, paper_threshold(editable, calibration, data))
            run = Run(stack, HorenClient(stack.control_address), data, most, console)
            books = {
                "calibrated": book(run, "open", "calibrated", subjects=False, anchors=False),
                "calibrated_with_subjects": book(run, "subjects", "calibrated", subjects=True),
                "paper_routing": book(run, "paper", PAPER, subjects=False),
            }
            if len(data.edits) <= MOST_COMPARED and settings.seed == 1:
                books |= compared(run)
            return {"books": books, "growth": grow(run, settings.seed) if growth else []}


def compared(run: Run) -> dict[str, Any]:
    """Measure the other presets, and entries with subjects at every score, with and without their masks."""
    every = partial(book, run, preset="calibrated", subjects=True, anchored_threshold=-1.0)
    return {
        "subjects_masked_any_score": every("masked"),
        "subjects_unmasked_any_score": every("unmasked", mask_subject=False),
        "horen_paper": book(run, "horen-paper", "horen-paper", subjects=False),
        "grace": book(run, "grace", "grace", subjects=False),
    }


def paper_threshold(editable: EditableModel, calibration: Calibration, data: RoutingData) -> MethodParameters:
    """Return the paper's routing with this product's values, at the threshold that these very edits call for."""
    paper, values = calibration.presets["horen-paper"], calibration.presets["calibrated"].parameters
    keys = Sampler(editable).sample([row["prompt"] for row in data.edits], paper.parameters).queries(paper.keying)
    arena = KeyArena(keys.shape[1])
    for number, key in enumerate(keys):
        arena.hold(key[None], number)
    assert paper.background is not None
    threshold = RefinedFalseFires(paper.background, paper.parameters, arena).threshold()
    routing = ("window_ratio", "span", "beta", "gamma", "steps", "epsilon", "chat")
    return replace(
        values,
        preset=PAPER,
        threshold=threshold,
        **{name: getattr(paper.parameters, name) for name in routing},
        space=None,
        background=None,
        false_fire_rate=None,
        anchors=False,
        mask_subject=False,
    )


def store(stack: Stack, editable: EditableModel, calibration: Calibration, paper: MethodParameters) -> None:
    """Make the calibration the served model's newest."""
    artifacts = ArtifactFolder(stack.layout.artifacts)
    for preset in calibration.presets.values():
        for data in preset.files.values():
            artifacts.put(data)
    registry = SqlRegistry(stack.layout.database_url)
    registry.add_calibration(
        fingerprint=editable.fingerprint,
        site=editable.site,
        presets={**parameters_of(calibration.presets), PAPER: paper},
        recommended="calibrated",
        summary={},
    )
    registry.close()


def parameters_of(presets: dict[str, CalibratedPreset]) -> dict[str, MethodParameters]:
    """Return the method parameters of every preset."""
    return {name: preset.parameters for name, preset in presets.items()}


def book(run: Run, name: str, preset: str, *, subjects: bool, **changes: Any) -> dict[str, Any]:
    """Edit one codebook of a preset with some parameters changed, ask everything, and return its numbers."""
    run.client.create_codebook(name, preset=preset, **changes)
    started = time.perf_counter()
    edit_ids, failures = edit_all(run, name, run.data.specs(subjects=subjects))
    seconds = time.perf_counter() - started
    view = run.client.get_codebook(name)
    asked = ask_all(Endpoint(run.stack.base_url, concurrency=32), f"{run.stack.model_name}@{name}", run.data, run.most)
    found = {
        "threshold": view.parameters.threshold,
        "anchored_threshold": view.parameters.anchored_threshold if view.parameters.anchors else None,
        "seconds_an_edit": round(seconds / len(edit_ids), 4),
        "failures": failures,
        **measured(asked, run.data, edit_ids),
        "at_equal_near_rates": [at_equal_rates(asked, run.data, near) for near in (NEAR_RATE, 0.01)],
        "same_subject_fires_at_recall": {
            str(recall): same_subject_at_recall(asked, edit_ids, recall) for recall in (0.8, 0.9, 0.95)
        },
    }
    # Its entries make room for the next codebook's.
    run.client.wait_serving(name, run.client.rollback(name, 1).number, timeout_s=600)
    keys = ("generalisation", "reliability", "fires_near", "fires_unrelated", "fires_same_subject")
    run.console.print(f"  {name}: c {found['threshold']:.4f}", {key: found[key]["share"] for key in keys})
    return found


def edit_all(run: Run, name: str, specs: Sequence[EditSpec]) -> tuple[list[str | None], dict[str, int]]:
    """Submit all edits, wait until they are served, and return the id that answers for each and why others failed."""
    views = [run.client.submit_edit(name, spec) for spec in specs]
    for view in views:
        run.client.wait_edit(view, until=EditProgress.PUBLISHED, timeout_s=3600)
    run.client.wait_serving(name, run.client.get_codebook(name).revision, timeout_s=600)
    done = {view.edit_id: view for view in run.client.list_edits(name, page_size=1000)}
    made = [done[view.edit_id] for view in views]
    failed = {EditProgress.FAILED, EditProgress.INACTIVE}
    ids = [None if view.state in failed else str(view.same_as or view.edit_id) for view in made]
    return ids, dict(Counter(view.reason_code or view.state.value for view in made if view.state in failed))


def grow(run: Run, seed: int) -> list[dict[str, Any]]:
    """Return how often unedited questions fire at growing sizes of one codebook, against a target of 5 % of them."""
    run.client.create_codebook("growth", preset="calibrated", anchors=False, false_fire_rate=NEAR_RATE)
    endpoint, found, done = Endpoint(run.stack.base_url, concurrency=32), [], 0
    specs = run.data.specs(subjects=False)
    for size in GROWTH:
        edit_all(run, "growth", specs[done:size])
        done = size
        answers = endpoint.ask_all(
            f"{run.stack.model_name}@growth", [*run.data.near, *run.data.unrelated], max_tokens=1
        )
        fires = rate([answer.fired for answer in answers])
        low, high = fires["interval"]
        ratio = [round(value / NEAR_RATE, 3) for value in (fires["share"], low, high)]
        threshold = run.client.get_codebook("growth").parameters.threshold
        found.append({"seed": seed, "entries": size, "threshold": threshold, "fires": fires, "times_target": ratio})
        run.console.print(f"  growth: {size} edits, c {threshold:.4f}, {ratio[0]:.2f} times the target")
    return found


if __name__ == "__main__":
    typer.run(main)
