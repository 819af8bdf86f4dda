"""vLLM engines for tests: started in this process, with or without the plugin, and stopped for certain."""

import gc
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.artifact import ArtifactFolder, EntryArtifact, EntryManifest, encode_entry
from horen_vllm.core.presets import MethodParameters, ValueMode
from tests.e2e.oracle import OracleBook

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on CPU needs g++")

SMALL: dict[str, Any] = {
    "max_model_len": 480,
    "block_size": 32,
    "max_num_seqs": 8,
    "seed": 0,
    "disable_log_stats": True,
}


@contextmanager
def engine(model: str, site: str | None, **options: Any) -> Iterator[Any]:
    """Start vLLM's ``LLM`` on `model`; `site` None means without the plugin."""
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    os.environ.update(settings, VLLM_PLUGINS="horen" if site else "none")
    from vllm import LLM

    extra = {"additional_config": {"horen": {"site": site}}} if site else {}
    llm = LLM(model, **{**SMALL, **options, **extra})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def call(llm: Any, method: str, body: dict[str, Any]) -> dict[str, Any]:
    """Call one of the plugin's RPCs and return the first worker's answer."""
    answer: dict[str, Any] = json.loads(llm.collective_rpc(method, args=(json.dumps(body),))[0])
    return answer


def apply_book(
    llm: Any, name: str, book: OracleBook, folder: Path, *, revision: int = 1, base_revision: int = 0
) -> dict[str, Any]:
    """Bring an oracle's codebook to the engine as the sync agent does."""
    return call(llm, "horen_apply", update_for(name, book, folder, revision=revision, base_revision=base_revision))


def update_for(
    name: str, book: OracleBook, folder: Path, *, revision: int = 1, base_revision: int = 0
) -> dict[str, Any]:
    """Return the update that replaces codebook `name` by `book`."""
    artifacts = ArtifactFolder(folder)
    added = []
    for entry in book.entries:
        manifest = EntryManifest(
            edit_id=entry.edit_id,
            fingerprint="test",
            site="test",
            value_mode=ValueMode(entry.mode),
            span=entry.span,
            target_ids=(1,),
            normalised_prompt=entry.edit_id,
            trained_end=False,
            loss=0.0,
            steps=0,
        )
        digest = artifacts.put(encode_entry(EntryArtifact(keys=entry.keys, values=entry.values, manifest=manifest)))
        row = {"edit_id": entry.edit_id, "sequence": entry.sequence, "artifact": digest}
        added.append({**row, "path": str(artifacts.path(digest))})
    parameters = MethodParameters(
        preset="cosine",
        threshold=book.threshold,
        window_ratio=book.ratio,
        beta=book.beta,
        gamma=book.gamma,
        steps=book.steps,
        epsilon=book.epsilon,
    )
    return {
        "codebook": name,
        "base_revision": base_revision,
        "revision": revision,
        "fingerprint": "test",
        "parameters": parameters.to_dict(),
        "added": added,
        "removed": [],
    }


def tagged(codebook: str | None, ratio: float = 0.6, **options: Any) -> Any:
    """Return greedy sampling parameters for a request of `codebook` (None: the clean model)."""
    from vllm import SamplingParams

    tag = {"horen_codebook": codebook, "horen_window_ratio": ratio} if codebook else None
    return SamplingParams(temperature=0.0, extra_args=tag, **options)
