"""A control plane in this process for the commands that talk to one, and a way to run the commands."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from horen_vllm.cli.app import app
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.registry.migrate import upgrade
from horen_vllm.registry.models import EditRecord, Publication
from horen_vllm.registry.store import SqlRegistry

FINGERPRINT = "f" * 64

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def no_horen_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOREN_CONTROL", raising=False)
    for name in ("HOREN_HOME", "HOREN_TENANT", "HOREN_AUTH", "HOREN_API_KEY", "HOREN_API_KEY_FILE", "HOREN_TLS_CA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Undo what a command that logs configures: its stream ends with it."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def run() -> Run:
    """Run ``horen`` with arguments in this process."""
    runner = CliRunner(env={"COLUMNS": "200"})
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "registry.sqlite"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def registry(tmp_path: Path, empty_database: Path) -> Iterator[SqlRegistry]:
    shutil.copytree(empty_database.parent, tmp_path / "registry")
    store = SqlRegistry(f"sqlite:///{tmp_path / 'registry' / 'registry.sqlite'}")
    yield store
    store.close()


@pytest.fixture
def server(registry: SqlRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlServer]:
    """Serve the registry; the environment names it, as for a user with HOREN_CONTROL."""
    settings = ControlSettings(
        model="demo-model",
        fingerprint=FINGERPRINT,
        site="model.layers.1.mlp.down_proj",
        port=0,
        poll_s=0.02,
        grace_s=0.5,
    )
    # Its log would come between the lines that a command prints.
    with capture_logs(), serve(registry, settings) as running:
        monkeypatch.setenv("HOREN_CONTROL", running.address)
        yield running


@pytest.fixture
def horen(server: ControlServer, run: Run) -> Callable[..., Any]:
    """Run a command that must succeed, with --json, and return what it prints."""

    def call(*arguments: object) -> Any:
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return call


@pytest.fixture
def publish(registry: SqlRegistry) -> Callable[..., EditRecord]:
    """Claim the oldest edit and publish an entry for it."""

    def work(threshold: float | None = None) -> EditRecord:
        (claim,) = registry.claim("worker", lease_s=30.0, fingerprint=FINGERPRINT)
        base = registry.get_codebook(claim.edit.codebook).revision
        publication = Publication(artifact="ab" * 32, base_revision=base, threshold=threshold)
        (edit,) = registry.publish([(claim, publication)])
        return edit

    return work


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """Return a folder that looks like a model."""
    folder = tmp_path / "Toy-Model"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 6}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder
