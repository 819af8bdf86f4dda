"""A control plane on port 0 over a real registry, its client, and a worker that publishes at once."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from horen_vllm.control.client import EditView, HorenClient
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.ids import DEFAULT_TENANT, CodebookName
from horen_vllm.registry.migrate import upgrade
from horen_vllm.registry.models import EditRecord, EditSpec, Publication, ReplicaReport
from horen_vllm.registry.ports import Registry
from horen_vllm.registry.store import SqlRegistry

FINGERPRINT = "f" * 64


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("registry") / "registry.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def registry(tmp_path: Path, empty_database: Path) -> Iterator[SqlRegistry]:
    shutil.copytree(empty_database.parent, tmp_path / "registry")
    store = SqlRegistry(f"sqlite:///{tmp_path / 'registry' / 'registry.db'}")
    yield store
    store.close()


@pytest.fixture
def settings() -> ControlSettings:
    return ControlSettings(
        model="demo-model",
        fingerprint=FINGERPRINT,
        site="model.layers.1.mlp.down_proj",
        port=0,
        poll_s=0.02,
        grace_s=0.5,
    )


@pytest.fixture
def server(registry: SqlRegistry, settings: ControlSettings) -> Iterator[ControlServer]:
    with serve(registry, settings) as running:
        yield running


@pytest.fixture
def client(server: ControlServer) -> Iterator[HorenClient]:
    with HorenClient(server.address, timeout_s=5.0) as connected:
        yield connected


@pytest.fixture
def demo(client: HorenClient) -> CodebookName:
    return client.create_codebook("demo", preset="cosine", threshold=0.85).name


@pytest.fixture
def spec() -> EditSpec:
    return EditSpec(prompt="Who leads Acme?", target="Ada", subject="Acme", paraphrases=("Acme's head?",))


@pytest.fixture
def submit(client: HorenClient, demo: CodebookName, spec: EditSpec) -> Callable[[str], EditView]:
    """Submit an edit with another prompt to the demo codebook."""
    return lambda prompt: client.submit_edit(demo, replace(spec, prompt=prompt, subject=None))


@pytest.fixture
def publish(registry: Registry) -> Callable[..., EditRecord]:
    """Claim the oldest edit and publish an entry for it."""

    def run(threshold: float | None = None) -> EditRecord:
        (claim,) = registry.claim("worker", lease_s=30.0, fingerprint=FINGERPRINT)
        base = registry.get_codebook(claim.edit.codebook).revision
        publication = Publication(artifact="ab" * 32, base_revision=base, threshold=threshold)
        (edit,) = registry.publish([(claim, publication)])
        return edit

    return run


@pytest.fixture
def beat(client: HorenClient) -> Callable[..., None]:
    """Send a heartbeat of a replica that serves revisions of codebooks of the default tenant."""

    def run(replica: str = "replica-1", **applied: int) -> None:
        revisions = {CodebookName(DEFAULT_TENANT, name): number for name, number in applied.items()}
        report = ReplicaReport(applied=revisions, probed=revisions)
        client.heartbeat(replica, model="demo-model", fingerprint=FINGERPRINT, epoch=client.epoch(), report=report)

    return run
