"""Carry-over: whether a value gives its target behind wordings that it was not trained on, its entry forced.

``python -m bench.carry_over MODEL EDITS.jsonl`` trains the values of edits (prompt, target, rephrase) with the
product's editor, then asks the whole model, with the value added at the site, behind the edit's own prompt and behind
its rephrase: an answer counts when greedy decoding gives exactly the target and its end. Routing has no part in it.
The rephrases must be unseen: choose rows by ``--first`` and ``--every`` that the model was not trained on.
``--passages`` does the same for long targets (question, answer, paraphrase).
Writes ``bench/results/carry_over.json``.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.provenance import provenance, write_result
from horen_vllm.core.presets import MethodParameters, ValueMode, preset_parameters
from horen_vllm.editor.contexts import EditContext, PromptForm, build_contexts, prompt_forms, target_ids
from horen_vllm.editor.forward.batch import answer_batch, answer_logits
from horen_vllm.editor.forward.clean import clean_pass, passages
from horen_vllm.editor.forward.inject import inject_values
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.training.adaptor import ValueLayout, value_layout
from horen_vllm.editor.training.train import TrainedValue, ValueTask, train_values
from horen_vllm.registry.models import EditSpec

BATCH: Final = 64
MEMORY: Final = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Fact:
    """An edit and a wording that it is not trained on."""

    prompt: str
    target: str
    rephrase: str


@dataclass(frozen=True, slots=True)
class Made:
    """A trained edit."""

    fact: Fact
    labels: tuple[int, ...]
    layout: ValueLayout
    trained: TrainedValue


def recipes() -> dict[str, MethodParameters]:
    """Return what is compared: the preset, and what it is with something changed."""
    preset = preset_parameters("cosine", "", threshold=0.9)
    return {
        "preset, one context, no noise, learning rate 0.3": replace(preset, noise=0.0, learning_rate=0.3, chat=False),
        "preset, no noise": replace(preset, noise=0.0),
        "preset": preset,
        "preset, 2 prefixes": replace(preset, prefixes=2),
        "preset, answer": replace(preset, value_mode=ValueMode.ANSWER),
        "preset, LoRA rank 4": replace(preset, rank=4),
    }


def long_recipes() -> dict[str, MethodParameters]:
    """Return the ways to hold a passage."""
    preset = preset_parameters("cosine", "", threshold=0.9)
    rows = {f"sequence, at most {rows} vectors": replace(preset, max_value_rows=rows) for rows in (2048, 128, 64, 32)}
    return {**rows, "answer": replace(preset, value_mode=ValueMode.ANSWER)}


def make(editable: EditableModel, facts: Sequence[Fact], parameters: MethodParameters) -> Iterator[Made]:
    """Train the values in batches."""
    memory = MemoryLimit(MEMORY)
    for start in range(0, len(facts), BATCH):
        drafts = []
        for fact in facts[start : start + BATCH]:
            spec = EditSpec(prompt=fact.prompt, target=fact.target)
            ids = target_ids(editable, spec)
            labels = (*ids, editable.end_id) if parameters.train_end else ids
            drafts.append(
                (fact, labels, value_layout(len(ids), parameters), build_contexts(editable, spec, parameters))
            )
        wanted = [row for _, labels, _, contexts in drafts for row in passages(contexts, labels)]
        rows = iter([row for row in clean_pass(editable, wanted, parameters, memory) if row is not None])
        tasks = [ValueTask(fact.prompt, layout, [next(rows) for _ in contexts]) for fact, _, layout, contexts in drafts]
        trained = train_values(editable, tasks, parameters, memory)
        for (fact, labels, layout, _), value in zip(drafts, trained, strict=True):
            if isinstance(value, TrainedValue):
                yield Made(fact, labels, layout, value)


@torch.no_grad()
def answers(editable: EditableModel, context: EditContext, made: Made) -> bool:
    """Return whether greedy decoding through the whole model gives the labels: one pass shows every arg-max."""
    batch = answer_batch([context.prompt_ids], [made.labels[:-1]], editable.device)
    with inject_values(editable, batch, made.trained.values, made.layout):
        chosen = answer_logits(editable, batch)[0].argmax(dim=-1)
    return tuple(chosen.tolist()) == made.labels


def share_right(
    editable: EditableModel, made: Sequence[Made], parameters: MethodParameters, *, own: bool, asked: int
) -> Any:
    """Return, by prompt form, the share of exact answers behind own prompts or rephrases, the end included."""
    right: dict[PromptForm, list[bool]] = {}
    for one in made:
        for context in prompt_forms(editable, one.fact.prompt if own else one.fact.rephrase, parameters):
            right.setdefault(context.form, []).append(answers(editable, context, one))
    return {form.value: round(sum(hits) / asked, 4) for form, hits in right.items()}


def measure(editable: EditableModel, facts: Sequence[Fact], parameters: MethodParameters) -> dict[str, Any]:
    """Return one row of the result."""
    started = time.perf_counter()
    made = list(make(editable, facts, parameters))
    seconds = time.perf_counter() - started
    return {
        "edits": len(facts),
        "steps": round(sum(one.trained.steps for one in made) / len(made), 2),
        "vectors": round(sum(one.layout.rows for one in made) / len(made), 1),
        "target_tokens": round(sum(len(one.labels) for one in made) / len(made), 1),
        "reached": round(sum(one.trained.greedy_ok for one in made) / len(facts), 4),
        "own": share_right(editable, made, parameters, own=True, asked=len(facts)),
        "rephrase": share_right(editable, made, parameters, own=False, asked=len(facts)),
        "training_seconds_an_edit": round(seconds / len(facts), 4),
    }


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def shown(console: Console, title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print one table."""
    table = Table(title=title)
    for column in ("recipe", "steps", "vectors", "reached", "own", "rephrase", "s an edit"):
        table.add_column(column)
    for name, row in rows.items():
        shares = ["  ".join(f"{form} {share:.3f}" for form, share in row[key].items()) for key in ("own", "rephrase")]
        cells = [name, row["steps"], row["vectors"], row["reached"], *shares, row["training_seconds_an_edit"]]
        table.add_row(*map(str, cells))
    console.print(table)


def main(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    edits: Annotated[Path, typer.Argument(help="JSON lines with prompt, target and rephrase.")],
    first: Annotated[int, typer.Option(help="First row.")] = 3000,
    every: Annotated[int, typer.Option(help="Take every n-th row from there.")] = 5,
    count: Annotated[int, typer.Option(help="Edits.")] = 500,
    passage_file: Annotated[
        Path | None, typer.Option("--passages", help="JSON lines with question, answer and paraphrase.")
    ] = None,
    passage_count: Annotated[int, typer.Option(help="Passages.")] = 40,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/carry_over.json"),
) -> None:
    """Run the measurement and write it with its provenance."""
    torch.set_num_threads(threads)
    console = Console()
    editable = load_editable_model(str(model))
    facts = [Fact(row["prompt"], row["target"], row["rephrase"]) for row in lines(edits)[first::every][:count]]
    result: dict[str, Any] = {"model": model.name, "first_row": first, "every": every, "threads": threads}
    result["recipes"] = {name: measure(editable, facts, parameters) for name, parameters in recipes().items()}
    shown(console, f"{len(facts)} edits on {model.name}", result["recipes"])
    if passage_file is not None:
        read = [Fact(row["question"], row["answer"], row["paraphrase"]) for row in lines(passage_file)]
        lengths = [len(editable.tokenizer.encode(fact.target, add_special_tokens=False)) for fact in read]
        long = [fact for fact, length in zip(read, lengths, strict=True) if length >= 200][:passage_count]
        result["passages"] = {name: measure(editable, long, parameters) for name, parameters in long_recipes().items()}
        shown(console, f"{len(long)} passages of 200 tokens and more", result["passages"])
    write_result(out, {**provenance(), **result})


if __name__ == "__main__":
    typer.run(main)
