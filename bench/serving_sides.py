"""The servers that a serving benchmark compares: vLLM alone, with a LoRA adapter, and with the plugin."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.serving_books import Target
from horen_vllm.cli.ports import LOOPBACK, claim_port
from horen_vllm.cli.server_command import on_cpu

MODEL: Final = "bench"
_READY_S: Final = 1800.0
_STOP_S: Final = 30.0
_ENVIRONMENT: Final = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def common_flags(*, concurrency: int, memory: float, compiled: bool) -> list[str]:
    """Return the flags that all sides have.

    Parameters
    ----------
    concurrency
        Requests that run at a time.
    memory
        Share of a GPU's memory for one server; on a CPU nothing.
    compiled
        Whether vLLM compiles the model (on a GPU: and captures CUDA graphs).
    """
    flags = ["--dtype", "bfloat16", "--max-model-len", "512", "--max-num-seqs", str(concurrency)]
    flags += ["--block-size", "32"] if on_cpu() else ["--gpu-memory-utilization", str(memory)]
    return flags if compiled else [*flags, "--enforce-eager"]


def plugin_flags(target: Target, books: Path, *, key_mib: int, value_mib: int) -> list[str]:
    """Return what a server with the plugin and static codebooks has beside."""
    section = {"site": target.site, "static_dir": str(books), "key_budget_mib": key_mib, "value_budget_mib": value_mib}
    return ["--additional-config", json.dumps({"horen": section})]


def lora_flags(adapter: Path, rank: int) -> list[str]:
    """Return what a server with one LoRA adapter has beside; the adapter is served as ``lora``."""
    return ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", f"lora={adapter}"]


@contextmanager
def server(target: Target, flags: list[str], log: Path, *, plugin: bool) -> Iterator[str]:
    """Run a server until the block ends, and give its URL.

    Raises
    ------
    RuntimeError
        When it ends before it answers, or does not answer in half an hour.
    """
    port = claim_port(0, "port")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(target.folder)]
    command += ["--served-model-name", MODEL, "--host", LOOPBACK, "--port", str(port), *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=_environment(plugin=plugin), start_new_session=True
        )
    try:
        url = f"http://{LOOPBACK}:{port}"
        _wait_until_ready(process, url, log)
        yield url
    finally:
        _stop(process)


def matched(url: str) -> float:
    """Return in how many answers an edit has fired, from the server's metrics page."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10.0) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("horen_requests_matched_total"))


def _environment(*, plugin: bool) -> Mapping[str, str]:
    # A list loads these plugins and no others.
    plugins = {"VLLM_PLUGINS": "horen,horen_serving" if plugin else "none"}
    return {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, **_ENVIRONMENT, **plugins}


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"the server ended with {process.returncode}:\n{tail}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2.0):
            return
        time.sleep(0.5)
    raise RuntimeError(f"the server did not answer in {_READY_S:.0f} s; its log is {log}.")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    # Its engine may outlive it; the group is the server's own.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
