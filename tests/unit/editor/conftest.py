"""Tiny random models of every supported architecture with a byte-level tokenizer, edits for them, and workers."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.core.presets import MethodParameters, preset_parameters
from horen_vllm.editor import passes
from horen_vllm.editor.loading.model import EditableModel, load_editable_model
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.editor.training.train import TrainedValue, train_values
from horen_vllm.editor.working.metrics import EditorMetrics
from horen_vllm.editor.working.worker import EditorWorker
from horen_vllm.errors import HorenError
from horen_vllm.ids import EditId
from horen_vllm.registry.migrate import upgrade
from horen_vllm.registry.models import EditRecord
from tests.unit.editor.making import edit_record

from .faulty_registry import NAME, FaultyRegistry, create

os.environ["HF_HUB_OFFLINE"] = "1"
torch.set_num_threads(1)

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma": GemmaConfig,
    "gpt-oss": GptOssConfig,
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<user>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

ModelFolder = Callable[[str], Path]
MakeRecord = Callable[..., EditRecord]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "<user>", "<assistant>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<user>", "<assistant>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_tiny(kind: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2} if kind == "gpt-oss" else {}
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 160,
        "initializer_range": 0.4,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
        "tie_word_embeddings": kind == "gemma",
    }
    config = CONFIGS[kind](**{**fields, **experts, **changes})
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_tiny(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def editable(model_folder: ModelFolder) -> EditableModel:
    return load_editable_model(str(model_folder("llama")))


@pytest.fixture
def parameters() -> MethodParameters:
    # Random models are so rugged that noise throws training about.
    preset = preset_parameters("cosine", "tiny", threshold=0.995)
    return replace(preset, max_steps=200, stop_loss=0.2, learning_rate=0.3, noise=0.0)


@pytest.fixture
def make_record() -> MakeRecord:
    return edit_record


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep structlog's default away: it prints every local variable of a traceback, models included."""
    with capture_logs():
        yield


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "registry.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def registry(
    tmp_path: Path, empty_database: Path, editable: EditableModel, parameters: MethodParameters
) -> Iterator[FaultyRegistry]:
    registry = FaultyRegistry(f"sqlite:///{shutil.copy(empty_database, tmp_path)}")
    create(registry, NAME, editable, parameters)
    yield registry
    registry.close()


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFolder:
    return ArtifactFolder(tmp_path / "artifacts")


@pytest.fixture
def metrics() -> EditorMetrics:
    return EditorMetrics()


@pytest.fixture
def new_worker(
    registry: FaultyRegistry, artifacts: ArtifactFolder, editable: EditableModel, metrics: EditorMetrics
) -> Callable[..., EditorWorker]:
    def make(**settings: Any) -> EditorWorker:
        settings = {"worker_id": "w1", "memory": MemoryLimit(64 << 20), "lease_s": 60.0, "poll_s": 0.01, **settings}
        return EditorWorker(registry=registry, artifacts=artifacts, editable=editable, metrics=metrics, **settings)

    return make


@pytest.fixture
def worker(new_worker: Callable[..., EditorWorker]) -> EditorWorker:
    return new_worker()


@pytest.fixture
def submit(registry: FaultyRegistry) -> Callable[..., list[EditId]]:
    return lambda *specs, name=NAME: [registry.submit(name, spec).edit_id for spec in specs]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of values that were trained together."""
    runs: list[int] = []

    def counted(editable: EditableModel, tasks: Sequence[Any], *rest: Any) -> list[TrainedValue | HorenError]:
        runs.append(len(tasks))
        return list(train_values(editable, tasks, *rest))

    monkeypatch.setattr(passes, "train_values", counted)
    return runs
