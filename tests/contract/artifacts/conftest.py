"""The artifact store under test: every kind of it, the object stores on a real server."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from horen_vllm.artifacts.cached import CachedArtifacts, CacheFolder
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.artifacts.location import parse_url
from horen_vllm.artifacts.objects import ObjectArtifacts
from horen_vllm.artifacts.opening import open_artifacts
from horen_vllm.artifacts.store import ArtifactStore
from tests.contract.artifacts.s3_server import BUCKET, S3Server, s3_server


@pytest.fixture(scope="session")
def s3_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_session: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The running server with an empty bucket, and the environment of its clients."""
    for path in s3_session.bucket.iterdir():
        shutil.rmtree(path)
    for name, value in s3_session.environment.items():
        monkeypatch.setenv(name, value)
    return s3_session


@pytest.fixture
def s3_url() -> str:
    return f"s3://{BUCKET}/some/prefix"


KINDS = ("folder", "file-url", "file-objects", "s3", "s3-cached")


@pytest.fixture(params=KINDS)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ArtifactStore]:
    """Opens the same store as often as it is called, as another process would."""
    root = tmp_path / "artifacts"
    match request.param:
        case "folder":
            return lambda: ArtifactFolder(root)
        case "file-url":
            return lambda: open_artifacts(f"file://{root}")
        case "file-objects":
            return lambda: ObjectArtifacts(parse_url(f"file://{root}"))
    request.getfixturevalue("s3")
    url = request.getfixturevalue("s3_url")
    if request.param == "s3":
        return lambda: open_artifacts(url)
    return lambda: CachedArtifacts(open_artifacts(url), CacheFolder(folder=tmp_path / "cache", max_bytes=1 << 20))


@pytest.fixture
def store(open_store: Callable[[], ArtifactStore]) -> ArtifactStore:
    return open_store()


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, open_store: object) -> Path:
    """Folder in which the store's files really are."""
    if "s3" in request.fixturenames or any(name.startswith("s3") for name in _chosen(request)):
        return request.getfixturevalue("s3_session").bucket / "some" / "prefix"  # type: ignore[no-any-return]
    return tmp_path / "artifacts"


def _chosen(request: pytest.FixtureRequest) -> list[str]:
    return [str(value) for value in request.node.callspec.params.values()]
