"""The two sides of the editing benchmark: the paper's plain loop, and the product's editor with its phases timed."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Final
from unittest.mock import patch

import torch

from bench.plain_loop import plain_train
from horen_vllm.artifact import encode_entry
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor import passes
from horen_vllm.editor.codebook.book import EditorCodebook, Entry
from horen_vllm.editor.codebook.judge import Judge
from horen_vllm.editor.contexts import build_contexts, target_ids
from horen_vllm.editor.editing import EditBatch
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.training.adaptor import value_layout
from horen_vllm.editor.training.verify import generate
from horen_vllm.errors import HorenError
from horen_vllm.registry.models import EditRecord, EntryRef

_TIMED: Final = (
    (passes, "prepare_edits", "prepare"),
    (passes, "train_values", "train"),
    (Judge, "__init__", "judge"),
    (Judge, "verdict", "judge"),
    (passes, "require_target", "verify"),
    (passes, "check_values", "verify"),
    (passes, "clean_captured", "verify"),
)
"""What the phases of an edit are spent in; none of these calls another one. Final verification is free where training
ends with right arg-maxes, because those are of the values that it keeps."""


@dataclass(slots=True)
class SideRun:
    """What one side made of some edits."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time of this process, for machines that are not idle."""
    values: dict[int, torch.Tensor] = field(default_factory=dict)
    """Of each edit that has one, by its place."""
    steps: list[int] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)
    """Contexts of each edit."""
    failed: Counter[str] = field(default_factory=Counter)
    """Edits that were refused, by code."""
    phases: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds by phase."""

    @contextmanager
    def clocked(self, device: torch.device) -> Iterator[None]:
        """Add the time of the block."""
        _settle(device)
        began, cpu_began = time.perf_counter(), time.process_time()
        yield
        _settle(device)
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - cpu_began


def plain_run(editable: EditableModel, records: Sequence[EditRecord], parameters: MethodParameters) -> SideRun:
    """Run the plain loop on each edit alone, in the plain form of its prompt, all steps."""
    run = SideRun()
    with run.clocked(editable.device):
        for place, record in enumerate(records):
            contexts = build_contexts(editable, record.spec, parameters)
            layout = value_layout(len(target_ids(editable, record.spec)), parameters)
            labels = labels_of(editable, record, parameters)
            result = plain_train(editable, contexts, labels, layout, parameters, stop=False)
            run.values[place] = result.values
            run.steps.append(result.steps)
            run.contexts.append(len(contexts))
    return run


class Book:
    """A codebook that grows with its edits as the worker's does, without a registry or files."""

    def __init__(self, editable: EditableModel, parameters: MethodParameters, memory: MemoryLimit) -> None:
        self.editable = editable
        self.memory = memory
        self.entries: dict[str, Entry] = {}
        """What its edits made."""
        self.copy = EditorCodebook(Keying(parameters), editable.d_in, lambda ref: self.entries[ref.edit_id].artifact)
        self.copy.update(1, [], [])

    def run(self, records: Sequence[EditRecord], batch: int) -> SideRun:
        """Make the edits in batches, from the records to encoded entries in the codebook."""
        run = SideRun()
        with _phased(run), run.clocked(self.editable.device):
            for start in range(0, len(records), batch):
                self._batch(run, start, records[start : start + batch])
        return run

    def forget(self) -> None:
        """Take out what its edits added."""
        self.copy.update(self.copy.revision + 1, [], [entry.ref.edit_id for entry in self.entries.values()])
        self.entries.clear()

    def _batch(self, run: SideRun, start: int, records: Sequence[EditRecord]) -> None:
        made = EditBatch(self.editable, records, self.copy, self.memory)
        made.train()
        for index, record in enumerate(records):
            try:
                outcome = made.make(index)
            except HorenError as exc:
                run.failed[exc.code] += 1
                continue
            if outcome.artifact is None:
                continue
            _timed(run, "encode", encode_entry)(outcome.artifact)
            ref = EntryRef(edit_id=record.edit_id, sequence=record.sequence, artifact=f"{record.sequence:064x}")
            entry = self.entries[record.edit_id] = Entry(ref, outcome.artifact)
            _timed(run, "add", self.copy.add)(entry, outcome.supersedes, outcome.threshold)
            run.values[start + index] = outcome.artifact.values
            run.steps.append(outcome.artifact.manifest.steps)
            run.contexts.append(len(outcome.artifact.keys))


def labels_of(editable: EditableModel, record: EditRecord, parameters: MethodParameters) -> tuple[int, ...]:
    """Return the token that each answer position must predict."""
    ids = target_ids(editable, record.spec)
    return (*ids, editable.end_id) if parameters.train_end else ids


def successes(
    editable: EditableModel, records: Sequence[EditRecord], run: SideRun, parameters: MethodParameters
) -> tuple[int, int]:
    """Return how many edits the whole model answers greedily with the target, and with the target and its end.

    The plain form of the prompt is asked, with the value forced; an edit without a value is no success.
    """
    target = whole = 0
    for place, values in run.values.items():
        ids = target_ids(editable, records[place].spec)
        labels = labels_of(editable, records[place], parameters)
        layout = value_layout(len(ids), parameters)
        context = build_contexts(editable, records[place].spec, parameters)[0]
        answer = generate(editable, context, values, layout, len(labels))
        target += answer[: len(ids)] == ids
        whole += answer == labels
    return target, whole


@contextmanager
def _phased(run: SideRun) -> Iterator[None]:
    with ExitStack() as patches:
        for owner, name, phase in _TIMED:
            patches.enter_context(patch.object(owner, name, _timed(run, phase, getattr(owner, name))))
        yield


def _timed(run: SideRun, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            run.phases[phase] += time.perf_counter() - began

    return call


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
