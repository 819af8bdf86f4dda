"""What an edit costs in a codebook that is full already."""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import track

from bench.editing_model import Subject
from bench.editing_pairs import Setting, spread
from bench.editing_sides import Book, SideRun
from horen_vllm.artifact import EntryArtifact, EntryManifest
from horen_vllm.core.presets import ValueMode
from horen_vllm.editor.codebook.book import Entry
from horen_vllm.editor.contexts import build_contexts
from horen_vllm.editor.forward.clean import queries
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EntryRef

KEYS_AN_ENTRY: Final = 2


def measure_scaling(subject: Subject, setting: Setting, sizes: Sequence[int], console: Console) -> dict[str, Any]:
    """Time the same batch of edits in codebooks of several sizes, interleaved, and compare with the first of them."""
    records = subject.take(0, setting.edits)
    direction, share = _crowd(subject, setting)
    books = {}
    for size in sizes:
        books[size] = Book(subject.editable, subject.parameters, MemoryLimit(setting.limit_bytes))
        books[size].copy.update(1, _filling(subject, size, direction, share), [])
    books[sizes[0]].run(records, setting.batch)
    books[sizes[0]].forget()
    runs: dict[int, list[SideRun]] = {size: [] for size in sizes}
    for number in track(range(setting.rounds), description="scaling", console=console, transient=True):
        for size in list(sizes)[:: -1 if number % 2 else 1]:
            runs[size].append(books[size].run(records, setting.batch))
            books[size].forget()
    return {
        **subject.describe(),
        "rounds": setting.rounds,
        "edits_a_round": setting.edits,
        "filling": f"{KEYS_AN_ENTRY} synthetic keys an entry, at a mean cosine of {share:.3f} to each other, as the "
        "queries of the edits' own prompts are",
        "by_entries": [_row(size, runs[size], runs[sizes[0]], len(records)) for size in sizes],
    }


def _row(size: int, runs: Sequence[SideRun], empty: Sequence[SideRun], edits: int) -> dict[str, Any]:
    pairs = list(zip(runs, empty, strict=True))
    return {
        "entries": size,
        "seconds_an_edit": median(run.seconds for run in runs) / edits,
        "judging_seconds_an_edit": median(run.phases["judge"] for run in runs) / edits,
        "refused": dict(sum((run.failed for run in runs), Counter())),
        "times_the_cost_when_empty": spread([own.seconds / first.seconds for own, first in pairs]),
        "times_in_cpu_time": spread([own.cpu_seconds / first.cpu_seconds for own, first in pairs]),
    }


def _crowd(subject: Subject, setting: Setting) -> tuple[torch.Tensor, float]:
    """Return the mean direction [d_in] of real queries and their mean cosine with each other."""
    contexts = [build_contexts(subject.editable, edit, subject.parameters)[0] for edit in subject.edits[:64]]
    found = queries(subject.editable, contexts, Keying(subject.parameters), MemoryLimit(setting.limit_bytes))
    count = len(found)
    share = (float((found @ found.T).sum()) - count) / (count * (count - 1))
    return torch.nn.functional.normalize(found.mean(dim=0), dim=0), min(max(share, 0.0), 1.0)


def _filling(subject: Subject, entries: int, direction: torch.Tensor, share: float) -> Iterator[Entry]:
    generator = torch.Generator().manual_seed(entries)
    normalize = torch.nn.functional.normalize
    for number in range(entries):
        noise = normalize(torch.randn(KEYS_AN_ENTRY, len(direction), generator=generator), dim=1)
        keys = normalize(share**0.5 * direction + (1.0 - share) ** 0.5 * noise, dim=1)
        ref = EntryRef(edit_id=EditId(f"filling-{number}"), sequence=number, artifact=f"{number:064x}")
        yield Entry(ref, EntryArtifact(keys=keys, values=torch.zeros(1, subject.editable.d_out), manifest=_of(ref)))


def _of(ref: EntryRef) -> EntryManifest:
    return EntryManifest(
        edit_id=ref.edit_id,
        fingerprint="bench",
        site="bench",
        value_mode=ValueMode.ANSWER,
        span=1,
        chunk=1,
        target_ids=(1,),
        normalised_prompt=ref.edit_id,
        trained_end=False,
        loss=0.0,
        steps=0,
    )
