"""Exact accuracy of a saved demo model per kind of wording: ``python -m horen_vllm.demo.evaluate``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from pydantic import BaseModel
from rich.console import Console
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from horen_vllm.demo.chatter import tasks
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.demo.world import World, build_world

Form = Literal["plain", "chat"]
FORMS: tuple[Form, ...] = ("plain", "chat")
DEMO_MODEL = demo_model_dir()
ROWS = 256
TASKS = 500
# Training draws its tasks with the world's seed; the measured ones come from another draw.
TASK_SEED = 1_000


class Share(BaseModel):
    """How many of `n` prompts were answered exactly."""

    exact: int
    n: int

    @property
    def value(self) -> float:
        """The share of exact answers, in [0, 1]; 0 for no prompts."""
        return self.exact / self.n if self.n else 0.0


class WordingAccuracy(BaseModel):
    """Exact accuracy on one kind of wording, in [0, 1], and over how many prompts.

    Attributes
    ----------
    accuracy, n
        Share of exact answers over both forms, and the number of prompts.
    by_form, by_relation
        The same per form and per relation.
    n_by_relation
        Number of prompts per relation, both forms together.
    """

    accuracy: float
    n: int
    by_form: dict[str, float]
    by_relation: dict[str, float]
    n_by_relation: dict[str, int]


class KindAccuracy(BaseModel):
    """Accuracy on one kind of wording, with the same saved weights computed in either dtype."""

    bfloat16: WordingAccuracy
    float32: WordingAccuracy


class Report(BaseModel):
    """Measured accuracy of a saved model on every kind of wording.

    Attributes
    ----------
    trained_wordings
        Every fact in the wordings that it was trained in.
    held_out_wording
        Every fact in the one wording that was trained with other subjects only.
    never_seen_wording
        Every fact in the wording of its relation that training never uses.
    small_tasks
        Greetings, sums, copying and counting; another draw than training's, though prompts may recur.
    """

    trained_wordings: KindAccuracy
    held_out_wording: KindAccuracy
    never_seen_wording: KindAccuracy
    small_tasks: KindAccuracy


class Case(BaseModel):
    """One question with the group it is counted in."""

    form: Form
    group: str
    prompt: str
    answer: str


def prompt_ids(tokenizer: PreTrainedTokenizerFast, prompt: str, form: Form) -> list[int]:
    """Return the ids that the model reads before it answers, beginning token included."""
    if form == "plain":
        return list(tokenizer.encode(prompt))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer.encode(str(text), add_special_tokens=False))


def answer_ids(tokenizer: PreTrainedTokenizerFast, answer: str) -> list[int]:
    """Return the ids that the model is to generate, end token included; the same in both forms."""
    return [*tokenizer.encode(f" {answer}", add_special_tokens=False), int(tokenizer.eos_token_id)]


@torch.inference_mode()
def exact(model: PreTrainedModel, pairs: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
    """Return for each (prompt ids, target ids) whether greedy decoding yields the target.

    Greedy decoding follows the target for as long as each next token is the likeliest after the right
    ones before it, so one pass over prompt and target decides it without generating.
    """
    length = max(len(prompt) + len(target) for prompt, target in pairs)
    ids = torch.zeros(len(pairs), length, dtype=torch.long)
    for row, (prompt, target) in enumerate(pairs):
        ids[row, : len(prompt) + len(target)] = torch.tensor(prompt + target)
    likeliest = model(input_ids=ids).logits.argmax(-1)
    return [
        likeliest[row, len(prompt) - 1 : len(prompt) + len(target) - 1].tolist() == target
        for row, (prompt, target) in enumerate(pairs)
    ]


def answered(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, cases: Sequence[Case]) -> list[bool]:
    """Return for each case whether the model answers it exactly, in batches of like lengths."""
    pairs = [(prompt_ids(tokenizer, c.prompt, c.form), answer_ids(tokenizer, c.answer)) for c in cases]
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    found = [False] * len(pairs)
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        for row, right in zip(rows, exact(model, [pairs[row] for row in rows]), strict=True):
            found[row] = right
    return found


def fact_cases(world: World, kind: Literal["trained", "held_out", "never_seen"]) -> Iterator[Case]:
    """Yield every fact in its wordings of one kind, plain and as a chat."""
    for fact in world.facts:
        if kind == "trained":
            prompts = [world.prompt(fact, wording) for wording in world.trained_wordings(fact)]
        elif kind == "held_out":
            prompts = [world.prompt(fact, world.held_out_wording(fact))]
        else:
            prompts = [world.unseen_prompt(fact)]
        for form in FORMS:
            for prompt in prompts:
                yield Case(form=form, group=fact.relation, prompt=prompt, answer=fact.answer)


def task_cases() -> Iterator[Case]:
    """Yield small tasks that ask for no fact, plain and as a chat."""
    for task in tasks(TASK_SEED, TASKS):
        for form in FORMS:
            yield Case(form=form, group="small tasks", prompt=task.prompt, answer=task.answer)


def shares(cases: Sequence[Case], right: Sequence[bool], *, by: Literal["form", "group"]) -> dict[str, Share]:
    """Return the share of exact answers per form or per group."""
    found: dict[str, Share] = {}
    for case, hit in zip(cases, right, strict=True):
        share = found.setdefault(case.form if by == "form" else case.group, Share(exact=0, n=0))
        share.exact += hit
        share.n += 1
    return found


def accuracy_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, cases: Sequence[Case]) -> WordingAccuracy:
    """Return the exact accuracy on these cases, in all and split."""
    right = answered(model, tokenizer, cases)
    groups = shares(cases, right, by="group")
    return WordingAccuracy(
        accuracy=sum(right) / len(cases),
        n=len(cases),
        by_form={name: share.value for name, share in shares(cases, right, by="form").items()},
        by_relation={name: share.value for name, share in groups.items()},
        n_by_relation={name: share.n for name, share in groups.items()},
    )


def load(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Return the saved model in one dtype, in evaluation mode; nothing is fetched."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model


def measure(folder: Path, world: World) -> Report:
    """Return the accuracy of a saved model on every fact of the world, in bfloat16 and in float32."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    low, full = load(folder, torch.bfloat16), load(folder, torch.float32)

    def of(drawn: Iterator[Case]) -> KindAccuracy:
        cases = list(drawn)
        return KindAccuracy(bfloat16=accuracy_of(low, tokenizer, cases), float32=accuracy_of(full, tokenizer, cases))

    return Report(
        trained_wordings=of(fact_cases(world, "trained")),
        held_out_wording=of(fact_cases(world, "held_out")),
        never_seen_wording=of(fact_cases(world, "never_seen")),
        small_tasks=of(task_cases()),
    )


def write_accuracy(report: Report, folder: Path) -> None:
    """Write the report as ``accuracy.json`` into the model's folder."""
    (folder / "accuracy.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


def main(
    model: Annotated[Path, typer.Option(help="Folder of the saved model.")] = DEMO_MODEL,
    seed: Annotated[int, typer.Option(help="Seed of the world that it was trained on.")] = 7,
    write: Annotated[bool, typer.Option(help="Write accuracy.json into the model's folder.")] = False,
) -> None:
    """Measure a saved model and print the report."""
    report = measure(model, build_world(seed))
    if write:
        write_accuracy(report, model)
    Console().print_json(report.model_dump_json())


if __name__ == "__main__":
    typer.run(main)
