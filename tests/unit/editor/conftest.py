"""Tiny random models of every supported architecture with a byte-level tokenizer, and edits for them."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
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

from horen_vllm.core.presets import MethodParameters, preset_parameters
from horen_vllm.editor.model import EditableModel, load_editable_model
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, EditId
from horen_vllm.registry.models import EditRecord, EditSpec, EditState

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


def save_tiny(kind: str, folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2} if kind == "gpt-oss" else {}
    config = CONFIGS[kind](
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=160,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
        tie_word_embeddings=kind == "gemma",
        **experts,
    )
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
    return replace(preset_parameters("cosine", "tiny", threshold=0.995), max_steps=200, stop_loss=0.2)


@pytest.fixture
def make_record() -> MakeRecord:
    def make(prompt: str, target: str, *, sequence: int = 1, **spec: tuple[str, ...]) -> EditRecord:
        now = datetime.now(UTC)
        return EditRecord(
            edit_id=EditId(f"e{sequence}"),
            codebook=CodebookName(DEFAULT_TENANT, "facts"),
            sequence=sequence,
            spec=EditSpec(prompt=prompt, target=target, **spec),  # type: ignore[arg-type]
            state=EditState.TRAINING,
            reason_code=None,
            reason=None,
            attempt=1,
            artifact=None,
            same_as=None,
            alias_of=None,
            supersedes=(),
            overlaps=(),
            published_revision=None,
            active=False,
            created_at=now,
            updated_at=now,
            published_at=None,
        )

    return make
