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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.serving_books import Target
from horen_vllm.cli.ports import LOOPBACK, claim_port
from horen_vllm.cli.server_command import on_cpu

MODEL: Final = "bench"
LORA_MODEL: Final = "lora"
_READY_S: Final = 1800.0
_STOP_S: Final = 30.0
_SETTLE_S: Final = 5.0
_ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Beside the API server's patience there is its own for the engine, which reads all codebooks before it is ready.
    "VLLM_ENGINE_READY_TIMEOUT_S": str(round(_READY_S)),
}
_POLLS_S: Final = 1.5
"""vLLM's processes poll for a second after their last step, on the cores of whoever is measured next."""
_GPU_CACHE_BYTES: Final = 8 << 30
"""Given outright, so that servers that start side by side do not measure each other's memory."""


def block_size() -> int:
    """Return the tokens of a KV block: what attention on a CPU needs, and what vLLM takes on a GPU by itself."""
    return 32 if on_cpu() else 16


def common_flags(*, concurrency: int, memory: float, compiled: bool, dummy: bool) -> list[str]:
    """Return the flags that all sides have.

    Parameters
    ----------
    concurrency
        Requests that run at a time.
    memory
        Share of a GPU's memory for one server; on a CPU nothing.
    compiled
        Whether vLLM compiles the model (on a GPU: and captures CUDA graphs).
    dummy
        Whether vLLM makes the weights itself.
    """
    flags = ["--dtype", "bfloat16", "--max-model-len", "512", "--max-num-seqs", str(concurrency)]
    flags += ["--block-size", str(block_size())]
    if not on_cpu():
        flags += ["--gpu-memory-utilization", str(memory), "--kv-cache-memory-bytes", str(_GPU_CACHE_BYTES)]
    if dummy:
        flags += ["--load-format", "dummy"]
    return flags if compiled else [*flags, "--enforce-eager"]


def plugin_flags(target: Target, books: Path, *, key_mib: int, value_mib: int) -> list[str]:
    """Return what a server with the plugin and static codebooks has beside."""
    section = {"site": target.site, "static_dir": str(books), "key_budget_mib": key_mib, "value_budget_mib": value_mib}
    return ["--additional-config", json.dumps({"horen": section})]


def lora_flags(adapter: Path, rank: int) -> list[str]:
    """Return what a server with one LoRA adapter has beside."""
    return ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", f"{LORA_MODEL}={adapter}"]


@dataclass(frozen=True, slots=True)
class Server:
    """A server that has been started."""

    url: str
    log: Path
    process: "subprocess.Popen[bytes]"

    def wait(self) -> None:
        """Return once it answers.

        Raises
        ------
        RuntimeError
            When it ends before, or does not answer within half an hour.
        """
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2.0):
                return
            time.sleep(0.5)
        raise RuntimeError(f"the server did not answer in {_READY_S:.0f} s; its log is {self.log}.")

    def check(self) -> None:
        """Raise RuntimeError with the end of its log when it has ended."""
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"the server ended with {self.process.returncode}:\n{tail}")

    def rest(self) -> None:
        """Wait until the servers that were asked before are idle."""
        time.sleep(_POLLS_S)

    def count(self, name: str) -> int:
        """Return a counter of its metrics page, over all labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10.0) as response:
            return counted(response.read().decode(), name)

    def settled(self, name: str, expected: int) -> int:
        """Return a counter once it is as high as expected, or what it is some seconds later."""
        deadline = time.monotonic() + _SETTLE_S
        while (found := self.count(name)) < expected and time.monotonic() < deadline:
            time.sleep(0.1)
        return found


@contextmanager
def server(target: Target, flags: list[str], log: Path, *, plugin: bool) -> Iterator[Server]:
    """Start a server that runs until the block ends; whoever asks it has to `wait` first."""
    port = claim_port(0, "port")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(target.folder)]
    command += ["--served-model-name", MODEL, "--host", LOOPBACK, "--port", str(port), *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=_environment(plugin=plugin), start_new_session=True
        )
    try:
        yield Server(f"http://{LOOPBACK}:{port}", log, process)
    finally:
        _stop(process)


def counted(page: str, name: str) -> int:
    """Return the sum of a counter's samples on a metrics page; 0 when it has none."""
    lines = (line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return round(sum(float(line.rpartition(" ")[2]) for line in lines))


def _environment(*, plugin: bool) -> Mapping[str, str]:
    # A list loads these plugins and no others.
    plugins = {"VLLM_PLUGINS": "horen,horen_serving" if plugin else "none"}
    return {"VLLM_CPU_KVCACHE_SPACE": "1", **own_cores(), **os.environ, **_ENVIRONMENT, **plugins}


def own_cores() -> Mapping[str, str]:
    """Return the variable that keeps the first core free of the model's threads.

    While the model computes, vLLM's engine polls for its answer. On the model's cores it halves the tokens a second, in
    some rounds and not in others, as Linux happens to place it.
    """
    cores = sorted(os.sched_getaffinity(0)) if on_cpu() else []
    return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores[1:]))} if len(cores) > 1 else {}


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    # Its engine may outlive it; the group is the server's own.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
