"""A worker whose process may take so much memory and no more: the edits come out as with plenty of it."""

import ctypes
import resource
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from structlog.testing import capture_logs
from transformers import AutoModelForCausalLM, LlamaConfig

from horen_vllm.core.presets import preset_parameters
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.registry.migrate import upgrade
from horen_vllm.registry.models import EditSpec

from .conftest import byte_tokenizer
from .workplace import MIB, Place

PARAMETERS = replace(
    preset_parameters("cosine", "tiny", threshold=0.999), learning_rate=0.6, max_steps=200, stop_loss=4.0
)
WORDS = (
    *("acme", "bolt", "crux", "dune", "echo", "flux", "gale", "husk", "iris", "jolt", "kelp", "lime"),
    *("moss", "nova", "opal", "pike", "quiz", "rust", "silk", "tide", "undo", "vast", "wolf", "yarn"),
)
FACTS = [EditSpec(prompt=f"{word} " * 20 + "is", target=word[:2]) for word in WORDS]
_M_MMAP_THRESHOLD = -3  # of glibc's mallopt
LONG = EditSpec(prompt="long " * 380, target="zz")


def make_model(folder: Path, *, vocabulary: int, inner: int) -> EditableModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=inner,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    byte_tokenizer().save_pretrained(folder)
    return load_editable_model(str(folder))


def confine(room: int) -> None:
    """Let this process have so many bytes more than it has now, and give back at once what it frees."""
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MIB)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + room, resource.RLIM_INFINITY))


def make_edits(place: Place, edits: list[EditSpec], room: int | None, notes: Path) -> None:
    """Make the first edit, so that everything is loaded, and the others in what memory is left then."""
    with capture_logs() as lines:
        place.submit(PARAMETERS, edits[:1])
        place.work()
        place.submit_more(edits[1:])
        place.work(memory=MemoryLimit(16384 * MIB), batch=64, sabotage=lambda: confine(room) if room else None)
    notes.write_text("\n".join(line["event"] for line in lines))


@pytest.mark.parametrize(
    ("vocabulary", "inner", "room"),
    [
        pytest.param(300, 8192, 140 * MIB, id="clean pass"),
        pytest.param(65536, 48, 64 * MIB, id="training step"),
    ],
)
def test_what_does_not_fit_together_is_made_in_halves(tmp_path: Path, vocabulary: int, inner: int, room: int) -> None:
    editable = make_model(tmp_path / "model", vocabulary=vocabulary, inner=inner)
    free, tight = new_place(tmp_path / "free", editable), new_place(tmp_path / "tight", editable)
    for place, allowed in ((free, None), (tight, room)):
        settings = {"place": place, "edits": FACTS, "room": allowed, "notes": place.folder.parent / "notes"}
        assert place.fork(make_edits, **settings) == 0
    assert "halved" not in (free.folder.parent / "notes").read_text()
    assert "halved" in (tight.folder.parent / "notes").read_text()
    assert tight.story() == free.story()
    expected, entries = free.entries(), tight.entries()
    assert len(entries) > len(FACTS) // 2
    for sequence, entry in entries.items():
        torch.testing.assert_close(entry.keys, expected[sequence].keys, rtol=0, atol=1e-6)
        torch.testing.assert_close(entry.values, expected[sequence].values, rtol=1e-3, atol=1e-3)


def test_one_prompt_that_does_not_fit_alone_fails_its_edit_only(tmp_path: Path) -> None:
    editable = make_model(tmp_path / "model", vocabulary=300, inner=8192)
    place = new_place(tmp_path / "tight", editable)
    edits = [*FACTS[:5], LONG, *FACTS[5:]]
    assert place.fork(make_edits, place=place, edits=edits, room=140 * MIB, notes=tmp_path / "notes") == 0
    fates = [(state, code) for state, code, *_ in place.story()]
    assert fates == [*[("published", None)] * 5, ("failed", "out_of_memory"), *[("published", None)] * 19]


def new_place(folder: Path, editable: EditableModel) -> Place:
    folder.mkdir()
    url = f"sqlite:///{folder / 'registry.db'}"
    upgrade(url)
    return Place(url, folder / "artifacts", editable)
