"""The registry under test: every test here speaks to `ports.Registry` only and runs on each implementation."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from horen_vllm.core.presets import MethodParameters
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry import migrate
from horen_vllm.registry.models import EditRecord, EditSpec, Publication
from horen_vllm.registry.ports import Registry
from horen_vllm.registry.store import SqlRegistry
from horen_vllm.testing.memory import MemoryRegistry, Storage

PARAMETERS = MethodParameters(preset="horen-paper", threshold=0.85, beta=20.0, gamma=0.01, steps=1)


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def now(clock: ManualClock) -> Callable[[], datetime]:
    return clock


@pytest.fixture
def advance(clock: ManualClock) -> Callable[[float], None]:
    return clock.advance


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database to copy, which is faster than migrating one for each test."""
    path = tmp_path_factory.mktemp("registry") / "empty.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, empty_sqlite: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_sqlite, tmp_path / 'registry.db')}"


def opener(request: pytest.FixtureRequest, store: str, clock: ManualClock) -> Callable[[], Registry]:
    """Return what opens one and the same registry, kept by `store`."""
    if store == "memory":
        storage = Storage(clock)
        return lambda: MemoryRegistry(storage, clock=clock)
    url = request.getfixturevalue(f"{store}_url")
    return lambda: SqlRegistry(url, clock=clock)


@pytest.fixture(params=["sqlite", "postgres", "memory"])
def store(request: pytest.FixtureRequest) -> str:
    """What keeps the registry under test."""
    return str(request.param)


@pytest.fixture
def open_registry(request: pytest.FixtureRequest, store: str, clock: ManualClock) -> Iterator[Callable[[], Registry]]:
    """Opens the same registry as often as it is called, as another process would."""
    open_one = opener(request, store, clock)
    opened: list[Registry] = []

    def open_another() -> Registry:
        opened.append(open_one())
        return opened[-1]

    yield open_another
    for registry in opened:
        registry.close()


@pytest.fixture
def registry(open_registry: Callable[[], Registry]) -> Registry:
    return open_registry()


@pytest.fixture
def create(registry: Registry) -> Callable[..., CodebookName]:
    """Creates a codebook and returns its name."""

    def create_one(codebook: str = "facts", tenant: str = "acme", fingerprint: str = "fp") -> CodebookName:
        name = CodebookName(TenantId(tenant), codebook)
        registry.create_codebook(name, model="llama", fingerprint=fingerprint, site="layers.29", parameters=PARAMETERS)
        return name

    return create_one


@pytest.fixture
def book(create: Callable[..., CodebookName]) -> CodebookName:
    return create()


@pytest.fixture
def publish(registry: Registry) -> Callable[..., EditRecord]:
    """Submits an edit, claims it and publishes it on the current revision."""
    numbers = count(1)

    def publish_one(
        book: CodebookName, supersedes: tuple[EditId, ...] = (), threshold: float | None = None
    ) -> EditRecord:
        number = next(numbers)
        codebook = registry.get_codebook(book)
        edit = registry.submit(book, EditSpec(prompt=f"prompt {number}", target=f"target {number}"))
        (claim,) = registry.claim("worker", lease_s=30, fingerprint=codebook.fingerprint)
        assert claim.edit.edit_id == edit.edit_id
        publication = Publication(
            artifact=f"{number:064x}", base_revision=codebook.revision, supersedes=supersedes, threshold=threshold
        )
        (edit,) = registry.publish([(claim, publication)])
        return edit

    return publish_one
