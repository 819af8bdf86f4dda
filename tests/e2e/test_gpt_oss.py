"""gpt-oss: attention as the edit site, experts, sinks, and a sliding window in every second layer."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.artifact import EntryArtifact, encode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.core.architectures import default_site
from horen_vllm.core.presets import MethodParameters, SpanMode, preset_parameters
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.ids import CodebookName
from horen_vllm.static import StaticDescription, StaticEntry, write_static
from tests.e2e import mixed
from tests.e2e.bits import check_bit_identity
from tests.e2e.engines import engine
from tests.e2e.oracle import Oracle, OracleBook, OracleEntry
from tests.e2e.static_folder import REVISION, save
from tests.unit.editor.conftest import save_tiny
from tests.unit.editor.making import Book, edit_record

pytestmark = [pytest.mark.engine, pytest.mark.matrix]
SITE = default_site("tiny", "GptOssForCausalLM", 4)
FACTS = "tenants/default/codebooks/facts"
PARAMETERS = replace(
    preset_parameters("cosine", "tiny", threshold=0.99),
    span=SpanMode.PROMPT,
    chat=False,
    max_steps=200,
)
# The second is longer than the sliding window.
EDITS = (("Who leads Acme?", "Ann"), ("The capital of Atlantis, a city that lies under the sea, is", "Poseidonis"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random gpt-oss whose heads vLLM's CPU attention takes, and whose window most prompts outgrow."""
    changes: dict[str, Any] = {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "sliding_window": 32,
        # Wide enough that greedy answers vary from prompt to prompt.
        "initializer_range": 0.2,
    }
    return str(save_tiny("gpt-oss", tmp_path_factory.mktemp("gpt-oss"), seed=3, **changes))


def made_edits(editable: EditableModel) -> list[EntryArtifact]:
    book = Book(editable, PARAMETERS)
    outcomes = [
        book.edit(edit_record(prompt, target, sequence=number)) for number, (prompt, target) in enumerate(EDITS, 1)
    ]
    return [outcome.artifact for outcome in outcomes if outcome.artifact is not None]


def save_edits(folder: Path, made: Sequence[EntryArtifact], parameters: MethodParameters) -> None:
    artifacts = ArtifactFolder(folder / "made")
    entries = [
        StaticEntry(edit_id=entry.manifest.edit_id, sequence=number, artifact=artifacts.put(encode_entry(entry)))
        for number, entry in enumerate(made, 1)
    ]
    description = StaticDescription(
        name=CodebookName.parse(FACTS),
        model="test",
        fingerprint=made[0].manifest.fingerprint,
        site=SITE,
        revision=REVISION,
        parameters=parameters,
        entries=tuple(entries),
    )
    write_static(folder / "static", description, artifacts)


def oracle_book(made: Sequence[EntryArtifact], parameters: MethodParameters) -> OracleBook:
    entries = [
        OracleEntry(
            entry.manifest.edit_id,
            number,
            entry.keys,
            entry.values,
            entry.manifest.value_mode,
            entry.manifest.span,
            share=entry.manifest.chunk,
        )
        for number, entry in enumerate(made, 1)
    ]
    return OracleBook(tuple(entries), threshold=parameters.threshold, ratio=parameters.window_ratio)


def test_edits_of_the_editor_are_answered_under_mixed_load(tiny: str, tmp_path: Path) -> None:
    editable = load_editable_model(tiny)
    made = made_edits(editable)
    save_edits(tmp_path, made, PARAMETERS)
    oracle = Oracle(tiny, SITE)
    texts = mixed.prompts(seed=41)
    books = mixed.books(oracle, texts, seed=41)
    for name, book in books.items():
        save(tmp_path, name, book, editable.fingerprint)
    edited = [mixed.Case(list(entry.manifest.probe_ids), FACTS, 16) for entry in made]
    requests = [*edited, *mixed.cases(texts, seed=41), *(mixed.Case(text, FACTS, 5) for text in texts)]
    options: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "enable_prefix_caching": True,
        "max_num_batched_tokens": 64,
    }
    with engine(tiny, SITE, horen={"static_dir": str(tmp_path / "static")}, **options) as llm:
        served = mixed.serve(llm, requests)
    for entry, output in zip(made, served[: len(made)], strict=True):
        assert tuple(output.outputs[0].token_ids) == (*entry.manifest.target_ids, editable.end_id)
    by_name = {**books, FACTS: oracle_book(made, PARAMETERS)}
    mixed.compare(oracle, served, requests, by_name, revision=REVISION).check()
    plain = [oracle.answer(case.prompt, None, 1, editable.end_id).tokens[0] for case in edited]
    assert plain != [entry.manifest.target_ids[0] for entry in made]


def test_other_requests_are_bit_identical(tiny: str, tmp_path: Path) -> None:
    check_bit_identity(tiny, SITE, Oracle(tiny, SITE), tmp_path)
