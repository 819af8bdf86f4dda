"""What the API-server half reads from its environment."""

import secrets
import socket
from enum import StrEnum
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from horen_vllm.artifacts.cached import DEFAULT_CACHE_MIB, CacheFolder, default_cache_folder
from horen_vllm.artifacts.location import is_url
from horen_vllm.artifacts.opening import ArtifactSource


class Auth(StrEnum):
    """How clients prove who they are."""

    NONE = "none"
    """Not at all: one tenant, loopback only."""
    KEYS = "keys"
    """By API keys of the control plane."""


class ShareCache(StrEnum):
    """Whose requests may reuse one another's prompt blocks."""

    TENANT = "tenant"
    """Those of one tenant."""
    ALL = "all"
    """All: a tenant can then tell by the time to the first token what others have asked."""


def _random_secret() -> SecretStr:
    return SecretStr(secrets.token_hex(32))


class ServingSettings(BaseSettings):
    """``HOREN_*`` variables of the process that runs vLLM's API server."""

    model_config = SettingsConfigDict(env_prefix="HOREN_", extra="forbid", env_ignore_empty=True)

    control: str | None = None
    """Address ``host:port`` of the control plane; without one no codebook is served."""
    api_key: SecretStr | None = None
    """Key of scope replica that this server shows to the control plane, where that asks for keys."""
    api_key_file: Path | None = None
    """File that holds it instead; read again when it changes."""
    tls: bool = False
    """Whether to speak TLS to the control plane although none of the following is given."""
    tls_ca: Path | None = None
    """Roots, in PEM, that the control plane's certificate must lead to."""
    tls_cert: Path | None = None
    """Certificate that this server shows to the control plane."""
    tls_key: Path | None = None
    """Its private key."""
    tls_server_name: str | None = None
    """Name that the control plane's certificate must bear; the host of `control` where it is not set."""
    artifacts: str = "artifacts"
    """Folder of the artifacts, or fsspec URL such as ``s3://bucket/prefix``."""
    artifact_cache: Path = Field(default_factory=default_cache_folder)
    """Folder for copies of artifacts that come from a URL."""
    artifact_cache_mib: int = Field(default=DEFAULT_CACHE_MIB, ge=0)
    """Most MiB of copies; 0: none."""
    packs: Path | None = None
    """Folder for updates on their way to the workers, which must be able to read it; ``packs`` beside the artifacts, or
    beside the copies of artifacts that come from a URL."""
    run_dir: Path | None = None
    """Folder through which the API servers of one engine agree; ``horen-UID`` in the temporary folder."""
    replica_id: str = Field(default_factory=socket.gethostname, min_length=1, max_length=128)
    """Name of this server in the control plane, ``HOST-PORT`` where it is not set. No two servers may have the same."""
    sync_wait_s: float = Field(default=2.0, gt=0, le=60)
    """How long one sync call waits for news, in seconds."""
    lease_s: float = Field(default=30.0, gt=0)
    """Life of this server's lease, renewed after every sync, in seconds; after it ``NAME@CODEBOOK`` answers 503.

    One number for both: a server that no longer counts for SERVING must not answer with an old revision.
    """
    auth: Auth = Auth.NONE
    """How clients prove who they are."""
    key_cache_s: float = Field(default=10.0, gt=0, le=300)
    """How long a key is believed after the control plane was asked: the longest life of a revoked key, in seconds."""
    share_cache: ShareCache = ShareCache.TENANT
    """Whose requests may reuse one another's prompt blocks; without authentication there is one tenant."""
    cache_secret: SecretStr = Field(default_factory=_random_secret, min_length=32)
    """Makes the tenants' cache salts; one value for the API servers of an engine lets them share blocks."""
    startup_wait_s: float = Field(default=60.0, ge=0)
    """How long the server may take to load the current revisions before it reports ready without them, in seconds."""
    stage_timeout_s: float = Field(default=600.0, gt=0, le=1800)
    """How long one update may take to get into the workers' memory, in seconds."""

    def artifact_source(self) -> ArtifactSource:
        """Return where the artifacts are."""
        location = self.artifacts if is_url(self.artifacts) else str(Path(self.artifacts).absolute())
        cache = CacheFolder(folder=self.artifact_cache.absolute(), max_bytes=self.artifact_cache_mib << 20)
        return ArtifactSource(location=location, cache=cache)

    def packs_folder(self) -> Path:
        """Return the folder for updates on their way to the workers."""
        beside = self.artifact_cache if is_url(self.artifacts) else Path(self.artifacts)
        return (self.packs or beside.absolute().parent / "packs").absolute()
