"""What a worker keeps of us: its edit site and the staging thread."""

from dataclasses import dataclass
from typing import Any, Final

from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.staging import Stager

_ATTRIBUTE: Final = "horen"


@dataclass(slots=True)
class EngineHalf:
    """The engine half on one rank."""

    site: EditSite
    stager: Stager
    flip_seconds: float = 0.0
    """How long the last flip took."""


def keep(worker: Any, half: EngineHalf) -> None:
    """Keep `half` with its worker."""
    setattr(worker, _ATTRIBUTE, half)


def half_of(worker: Any) -> EngineHalf:
    """Return what `keep` kept; FailedPrecondition ``no_edit_site`` when nothing is attached."""
    half: EngineHalf | None = getattr(worker, _ATTRIBUTE, None)
    if half is None:
        message = "this engine has no edit site: start it with additional_config.horen."
        raise FailedPrecondition(message, code="no_edit_site")
    return half
