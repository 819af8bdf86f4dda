"""What the API-server half reads from its environment."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServingSettings(BaseSettings):
    """``HOREN_*`` variables of the process that runs vLLM's API server."""

    model_config = SettingsConfigDict(env_prefix="HOREN_", extra="forbid")

    control: str | None = None
    """Address ``host:port`` of the control plane; without one no codebook is served."""
    artifacts: Path = Path("artifacts")
    """Folder of the artifacts."""
    replica_id: str = "replica-1"
    """Name of this server in the control plane."""
    sync_wait_s: float = Field(default=2.0, gt=0, le=60)
    """How long one sync call waits for news, in seconds."""
    lease_s: float = Field(default=30.0, gt=0)
    """Life of this server's lease, renewed after every sync, in seconds; after it ``NAME@CODEBOOK`` answers 503.

    One number for both: a server that no longer counts for SERVING must not answer with an old revision.
    """
