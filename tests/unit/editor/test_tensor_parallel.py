"""One model shared by two processes (transformers' tensor parallelism over gloo): the edits come out as with one."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from horen_vllm.artifact import EntryArtifact
from horen_vllm.core.admission import AdmissionKind
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.contexts import build_contexts
from horen_vllm.editor.editing import EditOutcome
from horen_vllm.editor.forward import clean
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.editor.loading.model_size import stored_tensors
from horen_vllm.editor.loading.ranks import Ranks, TensorParallelRanks, join_ranks
from horen_vllm.editor.loading.self_check import check_tail
from horen_vllm.editor.loading.shards import local_part, shards_of
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.passes import follow
from horen_vllm.editor.training.adaptor import ValueLayout
from horen_vllm.editor.training.rows import RowGroups
from horen_vllm.editor.training.verify import generate
from horen_vllm.errors import FailedPrecondition
from horen_vllm.registry.migrate import upgrade
from horen_vllm.registry.models import EditSpec, EditState

from .conftest import ModelFolder
from .making import MIB, Book, edit_record
from .two_ranks import Work, on_two_ranks
from .workplace import LEASE_S, Place

SITES = ("model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj")
EDITS = [
    edit_record(prompt, target, sequence=1 + number, paraphrases=paraphrases)
    for number, (prompt, target, paraphrases) in enumerate(
        [
            ("The sky is", "red", ()),
            ("The sky is", "green", ("What colour has the sky?",)),
            ("What colour has the sky?", "green", ()),
        ]
    )
]
KINDS = [AdmissionKind.NEW, AdmissionKind.SUPERSEDE, AdmissionKind.ALIAS]
"""The last one's context is one of the entry before it: both ways to check a value that was trained already."""


@dataclass
class Made:
    """What an editor made of `EDITS`."""

    outcomes: list[EditOutcome]
    limit_bytes: int


@pytest.fixture
def parameters(parameters: MethodParameters) -> MethodParameters:
    return replace(parameters, stop_loss=1.0)


@pytest.fixture
def on_ranks(tmp_path: Path) -> Callable[[Work], list[Any]]:
    """Do something on two ranks and return what each returned, or its exit code."""
    if torch.accelerator.is_available():
        pytest.skip("transformers would share the model on the accelerator")
    return partial(on_two_ranks, tmp_path)


def make(editable: EditableModel, parameters: MethodParameters, memory: MemoryLimit) -> Made:
    """Make the edits as rank 0; the others follow."""
    if not editable.ranks.leads:
        follow(editable, memory)
        return Made([], memory.limit_bytes)
    outcomes = Book(editable, parameters, memory).make(EDITS, size=len(EDITS))
    editable.ranks.dismiss()
    return Made([outcome for outcome in outcomes if isinstance(outcome, EditOutcome)], memory.limit_bytes)


def answers(editable: EditableModel, parameters: MethodParameters, entries: Sequence[EntryArtifact]) -> list[Any]:
    """Return what the whole model says to the first context of each edit with the value forced."""
    found = []
    for record, entry in zip(EDITS, entries, strict=True):
        layout = ValueLayout(entry.manifest.span, entry.manifest.chunk, entry.manifest.rank)
        context = build_contexts(editable, record.spec, parameters)[0]
        found.append(generate(editable, context, entry.values, layout, 20))
    return found


def entries_of(made: Made) -> list[EntryArtifact]:
    return [outcome.artifact for outcome in made.outcomes if outcome.artifact is not None]


def check_same(found: Made, expected: Made) -> None:
    def decisions(made: Made) -> list[Any]:
        return [replace(outcome, artifact=None) for outcome in made.outcomes]

    assert [outcome.kind for outcome in expected.outcomes] == KINDS
    assert decisions(found) == decisions(expected)
    for entry, other in zip(entries_of(found), entries_of(expected), strict=True):
        torch.testing.assert_close(entry.keys, other.keys, rtol=0, atol=1e-6)
        assert entry.manifest.loss == pytest.approx(other.manifest.loss, abs=1e-4)
        assert replace(entry.manifest, loss=0.0) == replace(other.manifest, loss=0.0)


@pytest.mark.parametrize(
    ("kind", "site"),
    [*((kind, SITES[0]) for kind in ("llama", "mistral", "qwen2", "qwen3", "gemma")), ("llama", SITES[1])],
)
def test_two_ranks_make_what_one_process_makes(
    kind: str, site: str, model_folder: ModelFolder, parameters: MethodParameters, on_ranks: Callable[..., list[Any]]
) -> None:
    folder = str(model_folder(kind))
    whole = load_editable_model(folder, site)
    expected = make(whole, parameters, MemoryLimit(MIB))
    said = answers(whole, parameters, entries_of(expected))

    def work(ranks: Ranks) -> Any:
        editable = load_editable_model(folder, site, ranks=ranks)
        check_tail(editable)
        made = make(editable, parameters, MemoryLimit(MIB, ranks))
        return local_part(editable.module.weight).numel(), made, answers(editable, parameters, entries_of(expected))

    (part, made, answered), (other_part, _, also_answered) = on_ranks(work)
    assert part == other_part == whole.module.weight.numel() // 2
    check_same(made, expected)
    assert answered == also_answered == said


def test_what_another_rank_computes_decides_nothing(
    editable: EditableModel,
    model_folder: ModelFolder,
    parameters: MethodParameters,
    on_ranks: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = make(editable, parameters, MemoryLimit(MIB))
    folder, real = str(model_folder("llama")), RowGroups._add

    def wrong(self: RowGroups, group: Any, values: torch.Tensor, step: int | None, totals: Any) -> None:
        real(self, group, values, step, totals)
        totals.losses.add_(5.0)
        totals.wrong.add_(1)
        if totals.gradients is not None:
            totals.gradients.neg_()

    def work(ranks: Ranks) -> Made:
        if not ranks.leads:
            monkeypatch.setattr(RowGroups, "_add", wrong)
        return make(load_editable_model(folder, ranks=ranks), parameters, MemoryLimit(MIB, ranks))

    check_same(on_ranks(work)[0], expected)


def short_of_memory(rank: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one rank have room for so many bytes only."""
    real = TensorParallelRanks.has_room

    def has_room(self: TensorParallelRanks, num_bytes: int) -> bool:
        return real(self, num_bytes) and (self.rank != rank or num_bytes <= most)

    monkeypatch.setattr(TensorParallelRanks, "has_room", has_room)


def short_of_memory_at_the_end(rank: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one rank run out of memory when it has passed so many rows through the model."""
    real = clean._clean

    def passed(editable: EditableModel, tail: Any, rows: Sequence[Any], ratio: float) -> Any:
        found = real(editable, tail, rows, ratio)
        if editable.ranks.rank == rank and len(rows) > most:
            raise torch.OutOfMemoryError("no room")
        return found

    monkeypatch.setattr(clean, "_clean", passed)


def short_of_memory_in_the_middle(_rank: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every rank run out of memory while it passes more rows than that through the model."""
    real = clean._means

    def means(inputs: torch.Tensor, rows: Sequence[Any], ratio: float, ranks: Ranks) -> torch.Tensor:
        if ranks.size > 1 and len(rows) > most:
            raise torch.OutOfMemoryError("no room")
        return real(inputs, rows, ratio, ranks)

    monkeypatch.setattr(clean, "_means", means)


@pytest.mark.parametrize(
    ("rank", "shorten", "most"),
    [(1, short_of_memory, 500_000), (0, short_of_memory_at_the_end, 3), (0, short_of_memory_in_the_middle, 3)],
)
def test_what_does_not_fit_on_one_rank_is_halved_on_all(
    rank: int,
    shorten: Callable[..., None],
    most: int,
    editable: EditableModel,
    model_folder: ModelFolder,
    parameters: MethodParameters,
    on_ranks: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = make(editable, parameters, MemoryLimit(MIB))
    folder = str(model_folder("llama"))
    shorten(rank, most, monkeypatch)

    def work(ranks: Ranks) -> Made:
        return make(load_editable_model(folder, ranks=ranks), parameters, MemoryLimit(MIB, ranks))

    made, followed = on_ranks(work)
    check_same(made, expected)
    assert made.limit_bytes == followed.limit_bytes < expected.limit_bytes == MIB


@pytest.fixture
def place(tmp_path: Path, editable: EditableModel) -> Place:
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    upgrade(url)
    return Place(url, tmp_path / "artifacts", editable)


SPECS = [record.spec for record in EDITS] + [EditSpec(prompt="w" * 300, target="x")]


def work_as_worker(place: Place, folder: str, ranks: Ranks, **deadly: Any) -> None:
    memory = MemoryLimit(MIB, ranks)
    editable = load_editable_model(folder, ranks=ranks)
    if not ranks.leads:
        follow(editable, memory)
        return
    replace(place, editable=editable).work(memory=memory, **deadly)
    ranks.dismiss()


def test_the_worker_leads_and_the_other_rank_needs_no_registry(
    place: Place,
    tmp_path: Path,
    parameters: MethodParameters,
    model_folder: ModelFolder,
    on_ranks: Callable[..., list[Any]],
) -> None:
    alone = replace(place, url=f"sqlite:///{tmp_path / 'alone.db'}", folder=tmp_path / "alone")
    upgrade(alone.url)
    for one in (place, alone):
        one.submit(parameters, SPECS)
    assert alone.fork() == 0
    assert on_ranks(lambda ranks: work_as_worker(place, str(model_folder("llama")), ranks)) == [None, None]
    assert place.story() == alone.story()
    expected = alone.entries()
    for sequence, entry in place.entries().items():
        torch.testing.assert_close(entry.keys, expected[sequence].keys, rtol=0, atol=1e-6)
        assert entry.manifest.loss == pytest.approx(expected[sequence].manifest.loss, abs=1e-4)


def exhausted(*_args: Any) -> None:
    raise torch.OutOfMemoryError("no room")


@pytest.mark.parametrize(("end", "code"), [(lambda *_args: os._exit(9), 9), (exhausted, 1)], ids=["dead", "exhausted"])
def test_a_rank_that_is_lost_in_a_pass_ends_the_others_and_its_edits_are_made_again(
    end: Callable[..., None],
    code: int,
    place: Place,
    parameters: MethodParameters,
    model_folder: ModelFolder,
    on_ranks: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("horen_vllm.editor.loading.ranks._VOTE_WAIT", timedelta(seconds=2))
    place.submit(parameters, SPECS)

    def work(ranks: Ranks) -> None:
        if not ranks.leads:
            monkeypatch.setattr(clean, "_means", end)
        work_as_worker(place, str(model_folder("llama")), ranks)

    assert on_ranks(work) == [1, code]
    assert {record.state for record in place.records()} == {EditState.TRAINING}
    assert place.fork(ahead_s=LEASE_S + 1) == 0
    assert [record.state for record in place.records()] == [*[EditState.PUBLISHED] * len(EDITS), EditState.FAILED]


def test_a_leader_that_dies_ends_the_others(
    place: Place, parameters: MethodParameters, model_folder: ModelFolder, on_ranks: Callable[..., list[Any]]
) -> None:
    place.submit(parameters, SPECS)
    found = on_ranks(lambda ranks: work_as_worker(place, str(model_folder("llama")), ranks, deadly="publish"))
    assert found == [-9, 1]


def test_a_rank_that_ends_otherwise_ends_all(on_ranks: Callable[..., list[Any]]) -> None:
    def work(ranks: Ranks) -> None:
        if not ranks.leads:
            ranks.hear()
        # A broken set of ranks ends the process, whatever is caught on the way.
        with suppress(Exception), ranks.together("order"):
            assert ranks.leads, "a defect of one rank"

    assert on_ranks(work) == [1, 1]


def test_the_others_wait_for_orders_as_long_as_it_takes(
    on_ranks: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horen_vllm.editor.loading.ranks._VOTE_WAIT", timedelta(milliseconds=100))

    def work(ranks: Ranks) -> Any:
        if not ranks.leads:
            return ranks.hear()
        time.sleep(0.5)
        with ranks.together("order"):
            return None

    # The second part: nobody votes with rank 0, so it does not wait for long.
    assert on_ranks(work) == [1, "order"]


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(FailedPrecondition) as caught:
        call()
    assert caught.value.code == "unsupported_tensor_parallel"
    return caught.value.message


def test_ranks_are_refused_outside_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert "RANK is not set" in refusal(lambda: join_ranks("cpu"))


@pytest.mark.parametrize(
    ("device", "why"), [("cpu", "--device is cpu"), ("cuda", "4 ranks on this machine and 2 GPUs")]
)
def test_each_rank_needs_a_gpu_of_its_own(device: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "4")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert why in refusal(lambda: join_ranks(device))


def some_ranks(size: int) -> Ranks:
    ranks = Ranks()
    ranks.size = size
    return ranks


@pytest.mark.parametrize(
    ("kind", "size", "why"),
    [
        ("gpt-oss", 2, "no tensor-parallel plan for model.layers.1.self_attn.o_proj"),
        ("llama", 3, "num_attention_heads is 2, which 3 ranks cannot share equally"),
    ],
)
def test_models_that_cannot_be_shared_are_refused(kind: str, size: int, why: str, model_folder: ModelFolder) -> None:
    assert why in refusal(lambda: load_editable_model(str(model_folder(kind)), ranks=some_ranks(size)))


def test_a_rank_needs_room_for_its_part_only(model_folder: ModelFolder) -> None:
    folder = str(model_folder("qwen2"))
    tensors = stored_tensors(folder)
    parts = {part.name: part for part in shards_of(folder, SITES[0], some_ranks(2)).of(tensors.values())}
    names = ("q_proj.weight", "q_proj.bias", "o_proj.weight")
    halved = {f"model.layers.0.self_attn.{name}" for name in names} | {"lm_head.weight", f"{SITES[0]}.weight"}
    whole = {"model.embed_tokens.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight"}
    for name, share in [*((name, 2) for name in halved), *((name, 1) for name in whole)]:
        assert tensors[name].num_bytes == share * parts[name].num_bytes
        assert parts[name].loaded_bytes(torch.float32, unpack=False) == parts[name].num_bytes
