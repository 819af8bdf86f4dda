"""Edits a second: the product's editor against the paper's plain loop, on the same edits, in paired rounds.

``make editing`` (``python -m bench.editing``) writes ``bench/results/editing.json``, section by section:

- `demo`, `random24`: the demo model, and a random model of 24 layers of the shape of Qwen2 0.5B;
- `model`: any other, by ``--model FOLDER --edits FILE.jsonl`` (lines with `prompt` and `target`);
- `scaling`: the cost of an edit in codebooks of up to 50,000 entries;
- `memory`: what batches take, and whether 1,000 edits in a row take more.

A round edits with the plain loop (batch 1, 50 forward and backward passes, one context) and with the editor in three
settings (`bench.editing_pairs`); the next round has other edits and the reverse order. The editor's time is that of
the whole path, from the edit's text to the encoded entry in the codebook. float32 on the CPU.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console

from bench.editing_memory import measure_memory
from bench.editing_model import Subject, demo_edits, file_edits, load_subject
from bench.editing_pairs import Setting, measure_pairs
from bench.editing_report import show
from bench.editing_scaling import measure_scaling
from bench.provenance import provenance, write_result
from bench.random_model import QWEN_HALF_B, write_random_qwen2
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.registry.models import EditSpec

RESULT: Final = Path(__file__).resolve().parent / "results" / "editing.json"


class Section(StrEnum):
    """A part of the benchmark that can be run alone."""

    DEMO = "demo"
    RANDOM24 = "random24"
    MODEL = "model"
    SCALING = "scaling"
    MEMORY = "memory"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for on the command line."""

    rounds: int
    count: int | None
    batch: int
    device: str
    memory_mib: int
    threshold: float
    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    in_a_row: int
    model: Path | None
    edits: Path | None
    console: Console

    def demo(self) -> dict[str, Any]:
        """Compare on the demo model."""
        setting = self._setting(64)
        return measure_pairs(self._demo(setting.rounds * setting.edits), setting, self.console)

    def random24(self) -> dict[str, Any]:
        """Compare on a random model that is made for it."""
        setting = self._setting(16)
        edits = demo_edits(setting.rounds * setting.edits)
        with tempfile.TemporaryDirectory(prefix="horen-bench-") as folder:
            path = write_random_qwen2(Path(folder), QWEN_HALF_B)
            return measure_pairs(self._load(path, edits, "random-24"), setting, self.console)

    def other(self) -> dict[str, Any]:
        """Compare on the model of the command line."""
        if self.model is None or self.edits is None:
            raise typer.BadParameter("the section model needs --model and --edits.")
        subject = self._load(self.model, file_edits(self.edits), self.model.name)
        return measure_pairs(subject, self._setting(64), self.console)

    def scaling(self) -> dict[str, Any]:
        """Time edits in larger and larger codebooks."""
        setting = self._setting(64)
        return measure_scaling(self._demo(setting.edits), setting, self.sizes, self.console)

    def memory(self) -> dict[str, Any]:
        """Measure the memory of batches."""
        subject = self._demo(max(self.in_a_row, *self.batches))
        return measure_memory(subject, self._setting(64), self.batches, self.in_a_row, self.console)

    def _setting(self, edits: int) -> Setting:
        limit = self.memory_mib * 2**20
        return Setting(rounds=self.rounds, edits=self.count or edits, batch=self.batch, limit_bytes=limit)

    def _demo(self, edits: int) -> Subject:
        return self._load(demo_model_dir(), demo_edits(edits), "demo")

    def _load(self, folder: Path, edits: list[EditSpec], name: str) -> Subject:
        return load_subject(folder, edits, name=name, device=self.device, threshold=self.threshold)


def chosen(section: Section, plan: Plan) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the measurements that make up a section, by their name in the result."""
    parts = {"demo": plan.demo, "random24": plan.random24, "scaling": plan.scaling, "memory": plan.memory}
    if plan.model is not None:
        parts[plan.model.name] = plan.other
    if section is Section.ALL:
        return parts
    if section is Section.MODEL:
        return {plan.model.name if plan.model else "model": plan.other}
    return {section.value: parts[section.value]}


def main(
    section: Annotated[Section, typer.Option(help="What to measure.")] = Section.ALL,
    out: Annotated[Path, typer.Option(help="The result; its other sections stay as they are.")] = RESULT,
    model: Annotated[Path | None, typer.Option(help="Folder of another model to compare on.")] = None,
    edits: Annotated[Path | None, typer.Option(help="JSON Lines file with its edits.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    count: Annotated[int | None, typer.Option(min=1, help="Edits a round: 64 by default, random24 16.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Most edits that the editor makes together.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    device: Annotated[str, typer.Option(help="cpu (float32) or cuda (bfloat16).")] = "cpu",
    memory_mib: Annotated[int, typer.Option(min=1, help="Memory limit of the editor's chunks.")] = 512,
    threshold: Annotated[float, typer.Option(help="Of the codebooks; high, as routing is not the subject.")] = 0.98,
    sizes: Annotated[str, typer.Option(help="Entries in the codebooks of the section scaling.")] = "0,1000,10000,50000",
    batches: Annotated[str, typer.Option(help="Edits a batch in the section memory.")] = "16,64,256",
    in_a_row: Annotated[int, typer.Option(min=1, help="Edits in a row in the section memory.")] = 1000,
) -> None:
    """Run the benchmark, or one section of it."""
    torch.set_num_threads(threads)
    console = Console()
    plan = Plan(
        rounds=rounds,
        count=count,
        batch=batch,
        device=device,
        memory_mib=memory_mib,
        threshold=threshold,
        sizes=tuple(map(int, sizes.split(","))),
        batches=tuple(map(int, batches.split(","))),
        in_a_row=in_a_row,
        model=model,
        edits=edits,
        console=console,
    )
    for name, measure in chosen(section, plan).items():
        result = measure()
        show(name, result, console)
        known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
        write_result(out, {**known, name: {**result, "provenance": provenance()}})


if __name__ == "__main__":
    typer.run(main)
