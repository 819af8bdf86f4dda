"""vLLM engines for tests: started in this process, with or without the plugin, and stopped for certain."""

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.plugin import register
from horen_vllm.plugin.tag import RequestTag

AMX = str(Path(__file__).resolve().parent / "amx")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on CPU needs g++")

SMALL: dict[str, Any] = {
    "max_model_len": 480,
    "block_size": 32,
    "max_num_seqs": 8,
    "seed": 0,
    "disable_log_stats": True,
}


@contextmanager
def engine(model: str, site: str | None, *, horen: dict[str, Any] | None = None, **options: Any) -> Iterator[Any]:
    """Start vLLM's ``LLM`` on `model`; `site` None means without the plugin, `horen` are more of its settings."""
    from vllm import LLM

    arguments = {**SMALL, **options, **_plugin(site, horen)}
    with _tiles_asked_for():
        llm = LLM(model, **arguments)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


@contextmanager
def stepped_engine(model: str, site: str, *, horen: dict[str, Any] | None = None, **options: Any) -> Iterator[Any]:
    """Start an ``LLMEngine`` whose engine core runs in this process, one step a call."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments = {**SMALL, "disable_log_stats": False, **options, **_plugin(site, horen)}
    with _tiles_asked_for():
        started = LLMEngine.from_engine_args(EngineArgs(model, **arguments))
    try:
        yield started
    finally:
        started.engine_core.shutdown()


@contextmanager
def _tiles_asked_for() -> Iterator[None]:
    """Let the processes that start within ask for AMX tiles, and no others: the other tests' must import no torch."""
    with pytest.MonkeyPatch.context() as patch:
        # Last: another sitecustomize on the path, the V2 runner's, does the same.
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), AMX))))
        yield


def _plugin(site: str | None, horen: dict[str, Any] | None) -> dict[str, Any]:
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    os.environ.update(settings, VLLM_PLUGINS="horen" if site else "none")
    if site:
        # vLLM loads plugins once a process, which an engine without them may have been the first to do.
        register()
    return {"additional_config": {"horen": {"site": site, **(horen or {})}}} if site else {}


def tagged(
    codebook: str | None, ratio: float = 0.6, span: tuple[int, int] | None = None, explain: int = 0, **options: Any
) -> Any:
    """Return sampling parameters, greedy by default, for a request of `codebook` (None: the clean model)."""
    from vllm import SamplingParams

    tag = RequestTag(codebook, ratio, span, explain).to_extra_args() if codebook else None
    return SamplingParams(extra_args=tag, **{"temperature": 0.0, **options})
