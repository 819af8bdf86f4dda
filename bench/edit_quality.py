"""Edit quality on the demo world: 100 edits, asked for over HTTP, and 500 facts that nobody edited.

``python -m bench.edit_quality`` writes ``bench/results/edit_quality.json``. Half of the unedited facts are of
relations that were edited, the other half of relations that were not. The same 500 questions then go to vLLM
without the plugin, and every request that did not fire must have the same tokens there. All thresholds are those of
``horen calibrate`` on other unedited facts; `calibrated` is measured with the subjects of the edits and without.
"""

import json
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import track

from bench.provenance import provenance, write_result
from horen_vllm.artifacts.opening import ArtifactSource
from horen_vllm.cli.calibrate_run import CalibrateOptions, CalibrationOutcome, calibrate_model
from horen_vllm.cli.demo_choice import spread
from horen_vllm.cli.model_folder import open_model_folder
from horen_vllm.cli.server_command import ServerDtype
from horen_vllm.cli.stack import Stack, StackSettings
from horen_vllm.control.client import EditProgress, HorenClient
from horen_vllm.core.presets import CALIBRATED
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.demo.world import Fact, World, build_world
from horen_vllm.editor.calibration.calibrated import CalibrationSettings
from horen_vllm.evals.endpoint import Answer, Endpoint
from horen_vllm.registry.models import EditSpec

EDITS: Final = 100
UNEDITED: Final = 500
BACKGROUND: Final = 1200
SEED: Final = 20261122
MAX_TOKENS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Disjoint sets of facts: edited, unedited and reported on, background of the calibration."""

    edited: tuple[Fact, ...]
    unedited: tuple[Fact, ...]
    background: tuple[Fact, ...]


def sample(world: World, seed: int = SEED, edits: int = EDITS, unedited: int = UNEDITED) -> Sample:
    """Return the facts of the run; edits come from one half of the relations."""
    generator = random.Random(seed)
    names = sorted(world.relations)
    generator.shuffle(names)
    chosen = set(names[: len(names) // 2])
    order = spread(world, len(world.facts), generator)
    inside = [fact for fact in order if fact.relation in chosen]
    outside = [fact for fact in order if fact.relation not in chosen]
    half = unedited // 2
    edited, near = inside[:edits], inside[edits : edits + half]
    far = outside[: unedited - half]
    rest = [*inside[edits + half :], *outside[unedited - half :]]
    generator.shuffle(rest)
    return Sample(edited=tuple(edited), unedited=(*near, *far), background=tuple(rest[:BACKGROUND]))


def question(world: World, fact: Fact) -> str:
    """Return the trained wording by which a fact is edited or asked for."""
    return world.prompt(fact, world.trained_wordings(fact)[0])


def calibrate(stack: Stack, world: World, facts: Sample, file: Path) -> CalibrationOutcome:
    """Calibrate the demo model on the background facts, as ``horen calibrate --home`` does while the stack runs."""
    file.write_text("".join(f"{json.dumps(background(world, fact))}\n" for fact in facts.background))
    folder = open_model_folder(demo_model_dir())
    options = CalibrateOptions(
        folder=str(folder.path),
        site=folder.site,
        title=stack.model_name,
        background=file,
        settings=CalibrationSettings(source=file.name),
        device="cpu",
        dtype="float32",
        threads=1,
        stores=(stack.layout.database_url, ArtifactSource(location=str(stack.layout.artifacts))),
        out=None,
        reports=stack.layout.root / "calibration",
        compare=True,
    )
    return calibrate_model(options, lambda _stage: None)


def background(world: World, fact: Fact) -> dict[str, Any]:
    """Return a fact as a line of a background file."""
    others = [world.prompt(fact, wording) for wording in world.trained_wordings(fact)[1:]]
    return {"prompt": question(world, fact), "subject": fact.subject, "relation": fact.relation, "rephrases": others}


def edit_all(client: HorenClient, codebook: str, specs: Sequence[EditSpec], console: Console) -> list[Any]:
    """Submit all edits, wait until each is served or has failed, and return their last views."""
    submitted = [client.submit_edit(codebook, spec) for spec in specs]
    waiting = track(submitted, description=f"editing {codebook}", console=console, transient=True)
    return [client.wait_edit(edit, until=EditProgress.SERVING, timeout_s=600) for edit in waiting]


def measure(
    stack: Stack, world: World, facts: Sample, preset: str, console: Console, *, subjects: bool = False
) -> dict[str, Any]:
    """Edit one codebook and return its numbers, the unedited answers included under ``_answers``."""
    client, endpoint = HorenClient(stack.control_address), Endpoint(stack.base_url)
    book = f"{preset}-subjects" if subjects else preset
    anchors = subjects if preset == CALIBRATED else None
    client.create_codebook(book, preset=preset, anchors=anchors)
    targets = [world.counterfactual(fact, SEED) for fact in facts.edited]
    prompts = [question(world, fact) for fact in facts.edited]
    specs = [
        EditSpec(prompt=prompt, target=target, subject=fact.subject if subjects else None)
        for prompt, target, fact in zip(prompts, targets, facts.edited, strict=True)
    ]
    started = time.perf_counter()
    edits = edit_all(client, book, specs, console)
    seconds = time.perf_counter() - started
    model = f"{stack.model_name}@{book}"
    questions = [question(world, fact) for fact in facts.unedited]
    unedited = {
        "completions": endpoint.ask_all(model, questions, max_tokens=MAX_TOKENS),
        "chat": endpoint.chat_all(model, questions, max_tokens=MAX_TOKENS),
    }
    parameters = client.get_codebook(book).parameters
    return {
        "preset": preset,
        "subjects": subjects,
        "threshold": parameters.threshold,
        "anchored_threshold": parameters.anchored_threshold if subjects else None,
        "background_false_fire_rate": parameters.false_fire_rate,
        "edits": len(edits),
        "failed_edits": sum(edit.state is not EditProgress.SERVING for edit in edits),
        "failure_codes": sorted({edit.reason_code for edit in edits if edit.reason_code}),
        "seconds_per_edit": seconds / len(edits),
        **hits(endpoint, model, world, facts, targets),
        **{name: count for api, answers in unedited.items() for name, count in fires(api, answers).items()},
        "_answers": unedited,
    }


def hits(endpoint: Endpoint, model: str, world: World, facts: Sample, targets: Sequence[str]) -> dict[str, float]:
    """Return the exact-match rates of the edited facts, by wording and by API."""
    wordings = {
        "reliability": [question(world, fact) for fact in facts.edited],
        "generalisation_held_out_wording": [world.prompt(fact, world.held_out_wording(fact)) for fact in facts.edited],
        "generalisation_unseen_wording": [world.unseen_prompt(fact) for fact in facts.edited],
    }
    rates = {}
    for name, prompts in wordings.items():
        rates[name] = exact(endpoint.ask_all(model, prompts), targets)
        rates[f"{name}_chat"] = exact(endpoint.chat_all(model, prompts), targets)
    return rates


def fires(api: str, answers: Sequence[Answer]) -> dict[str, str]:
    """Return how many unedited questions fired: the first half are of edited relations, the rest of others."""
    half = len(answers) // 2
    near, far = answers[:half], answers[half:]
    return {
        f"fires_{api}_edited_relations": f"{sum(answer.fired for answer in near)} of {len(near)}",
        f"fires_{api}_other_relations": f"{sum(answer.fired for answer in far)} of {len(far)}",
    }


def exact(answers: Sequence[Answer], targets: Sequence[str]) -> float:
    """Return the share of answers that are exactly their target."""
    return sum(answer.text == target for answer, target in zip(answers, targets, strict=True)) / len(targets)


def plain_tokens(prompts: Sequence[str]) -> dict[str, list[tuple[int, ...]]]:
    """Return the greedy tokens of vLLM without the plugin, in fp32, by API."""
    os.environ.update(VLLM_PLUGINS="none", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")
    from vllm import LLM, SamplingParams

    llm = LLM(str(demo_model_dir()), dtype="float32", enforce_eager=True, block_size=32, disable_log_stats=True)
    try:
        parameters = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
        messages: Any = [[{"role": "user", "content": prompt}] for prompt in prompts]
        outputs = {
            "completions": llm.generate(list(prompts), parameters, use_tqdm=False),
            "chat": llm.chat(messages, parameters, use_tqdm=False),
        }
        return {api: [tuple(one.outputs[0].token_ids) for one in answers] for api, answers in outputs.items()}
    finally:
        llm.llm_engine.engine_core.shutdown()


def run(presets: Sequence[str], console: Console, edits: int = EDITS, unedited: int = UNEDITED) -> dict[str, Any]:
    """Measure every preset on one server and compare the silent requests with vLLM without the plugin."""
    world = build_world()
    facts = sample(world, edits=edits, unedited=unedited)
    with tempfile.TemporaryDirectory(prefix="horen-quality-") as home:
        settings = StackSettings(
            model=demo_model_dir(),
            home=Path(home),
            name="demo",
            port=0,
            control_port=0,
            dtype=ServerDtype.FLOAT32,
        )
        with Stack(settings) as stack:
            calibration = calibrate(stack, world, facts, Path(home) / "background.jsonl")
            arms = [(preset, False) for preset in presets] + [(CALIBRATED, True)] * (CALIBRATED in presets)
            rows = [measure(stack, world, facts, preset, console, subjects=subjects) for preset, subjects in arms]
    expected = plain_tokens([question(world, fact) for fact in facts.unedited])
    for row in rows:
        answers: dict[str, list[Answer]] = row.pop("_answers")
        pairs = [pair for api in expected for pair in zip(answers[api], expected[api], strict=True)]
        silent = [(answer, tokens) for answer, tokens in pairs if not answer.fired]
        row["silent_requests"] = len(silent)
        row["silent_requests_token_identical"] = sum(answer.token_ids == tokens for answer, tokens in silent)
    compared = calibration.comparison.to_dict(curves=False) if calibration.comparison else None
    return {
        "seed": SEED,
        "presets": rows,
        "calibration": compared,
        "calibration_seconds": round(calibration.seconds, 1),
    }


def main(
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/edit_quality.json"),
    preset: Annotated[list[str] | None, typer.Option(help="Presets to measure.")] = None,
) -> None:
    """Run the measurement and write it with its provenance."""
    console = Console()
    result = run(preset or [CALIBRATED, "cosine", "horen-paper"], console)
    write_result(out, {**provenance(), **result})
    console.print_json(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
