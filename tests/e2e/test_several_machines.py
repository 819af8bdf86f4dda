"""The how-to "Run on several machines", command by command: PostgreSQL, an object store, TLS, keys, three processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import httpx
import pytest
from openai import AuthenticationError, OpenAI

from horen_vllm.cli.demo_choice import choose
from horen_vllm.cli.ports import claim_port
from horen_vllm.demo.paths import demo_model_dir
from tests.contract.artifacts.s3_server import BUCKET, s3_server
from tests.unit.control.secure.authority import Authority

pytestmark = [pytest.mark.engine, pytest.mark.matrix]
_HOREN: Final = (sys.executable, "-m", "horen_vllm.cli.app")
_START_S: Final = 240.0
_MODEL: Final = ("--model", str(demo_model_dir()))


@dataclass
class Site:
    """Where the machines of the how-to meet, and the environments that its shells have."""

    folder: Path
    registry: dict[str, str]
    """Of machines that may speak to the database."""
    store: dict[str, str]
    control: str = field(default_factory=lambda: f"127.0.0.1:{claim_port(0, '')}")
    port: int = field(default_factory=lambda: claim_port(0, ""))

    def run(self, *command: str, **environment: str) -> str:
        """Run a command to its end and return what it prints."""
        done = subprocess.run(
            [*_HOREN, *command],
            env={**_clean(), **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def started(self, name: str, *command: str, **environment: str) -> Iterator[None]:
        """Keep a process running within the block."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = _start(command, {**_clean(), **environment}, self.folder, log)
        try:
            yield
            assert process.poll() is None, self.log(name)
        finally:
            process.terminate()
            process.wait(timeout=60)

    def log(self, name: str) -> str:
        """Return what a process has said last."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def wait_for_server(self) -> None:
        """Wait until the OpenAI server answers."""
        ends = time.monotonic() + _START_S
        while time.monotonic() < ends:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
        raise AssertionError(self.log("serve"))


@pytest.fixture
def site(tmp_path: Path, empty_postgres_url: str) -> Iterator[Site]:
    """PostgreSQL without a schema, a bucket, a certificate, and everything running as the how-to says."""
    pair = Authority(tmp_path, "site").issue()
    with ExitStack() as running:
        store = {**running.enter_context(s3_server(tmp_path)).environment, "HOREN_ARTIFACTS": f"s3://{BUCKET}/horen"}
        place = Site(tmp_path, {**store, "HOREN_DATABASE": empty_postgres_url}, store)
        place.run("db", "upgrade", **place.registry)
        for scope in ("admin", "replica"):
            place.run(
                "key", "create", "--scope", scope, "--database", empty_postgres_url, "--secret-file", f"{scope}.key"
            )
        tls = ("--auth", "keys", "--tls-cert", str(pair.cert), "--tls-key", str(pair.key))
        control = ("control", *_MODEL, "--name", "demo", "--address", place.control, *tls)
        running.enter_context(place.started("control", *control, **place.registry))
        running.enter_context(place.started("worker", "worker", *_MODEL, "--device", "cpu", **place.registry))
        dialled = ("--control", place.control, "--tls-ca", "site-ca.pem", "--api-key-file", "replica.key")
        serve = ("serve", *_MODEL, "--name", "demo", "--port", str(place.port), *dialled, "--replica-id", "machine-3")
        running.enter_context(place.started("serve", *serve, **store, HOREN_AUTH="keys"))
        place.wait_for_server()
        yield place


def test_the_how_to_works(site: Site) -> None:
    admin = {"HOREN_CONTROL": site.control, "HOREN_TLS_CA": "site-ca.pem", "HOREN_API_KEY_FILE": "admin.key"}
    choice = choose(1, seed=5)[0]
    site.run("tenant", "create", "acme", **admin)
    site.run("codebook", "create", "facts", "--tenant", "acme", "--preset", "cosine", "--threshold", "0.99", **admin)
    fact = ("--prompt", choice.prompt, "--target", choice.target)
    site.run("edit", "submit", "facts", "--tenant", "acme", *fact, "--wait", "serving", **admin)
    secret = json.loads(site.run("key", "create", "acme", "--json", **admin))["secret"]

    server = f"http://127.0.0.1:{site.port}/v1"
    asked = {"model": "demo@facts", "prompt": choice.prompt, "max_tokens": 16, "temperature": 0}
    answer = OpenAI(base_url=server, api_key=secret, max_retries=0).completions.create(**asked)  # type: ignore[call-overload]
    assert answer.choices[0].text.strip() == choice.target
    with pytest.raises(AuthenticationError):
        OpenAI(base_url=server, api_key="hk_nobody", max_retries=0).completions.create(**asked)  # type: ignore[call-overload]

    shown = json.loads(site.run("codebook", "show", "facts", "--tenant", "acme", "--json", **admin))
    assert (shown["replicas_serving"], shown["replicas_total"], shown["entry_count"]) == (1, 1, 1)
    assert list((site.folder / "data" / BUCKET / "horen").rglob("*.safetensors"))
    for name in ("control", "worker", "serve"):
        assert secret not in site.log(name)


def _start(
    command: tuple[str, ...], environment: dict[str, str], folder: Path, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*_HOREN, *command], env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("HOREN_", "AWS_", "FSSPEC_"))}
