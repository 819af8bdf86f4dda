"""Opens the artifact store that a folder or a URL names."""

from dataclasses import dataclass
from pathlib import Path

from horen_vllm.artifacts.cached import CachedArtifacts, CacheFolder
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.artifacts.location import is_url, parse_url
from horen_vllm.artifacts.objects import ObjectArtifacts
from horen_vllm.artifacts.store import ArtifactStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactSource:
    """Where artifacts are read from, in words that another process understands."""

    location: str
    """Folder or URL."""
    cache: CacheFolder | None = None

    def open(self) -> ArtifactStore:
        """Return the store; raises as `open_artifacts`."""
        return open_artifacts(self.location, self.cache)


def open_artifacts(location: str | Path, cache: CacheFolder | None = None) -> ArtifactStore:
    """Return the store at a folder, or at an fsspec URL such as ``s3://bucket/prefix``.

    Parameters
    ----------
    location
        Folder or URL; ``file://`` is a folder, too.
    cache
        Where copies of what comes over a network are kept; None: nowhere. A folder needs none.

    Raises
    ------
    InvalidArgument
        ``invalid_artifacts_url``.
    FailedPrecondition
        ``artifact_driver_missing``.
    """
    if isinstance(location, Path) or not is_url(location):
        return ArtifactFolder(Path(location))
    url = parse_url(location)
    if url.scheme in {"file", "local"}:
        return ArtifactFolder(Path(url.path))
    store = ObjectArtifacts(url)
    return store if cache is None or cache.max_bytes <= 0 else CachedArtifacts(store, cache)
