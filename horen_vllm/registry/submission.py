"""What the registry is asked to store as an edit."""

from dataclasses import dataclass, field

from horen_vllm.ids import CodebookName
from horen_vllm.registry.audit import Caller, current_caller
from horen_vllm.registry.models import EditSpec, RequestKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One edit on its way in."""

    codebook: CodebookName
    spec: EditSpec
    request: RequestKey | None = None
    """Makes it once, however often it comes."""
    ttl_s: float | None = None
    """Seconds after which it is retired by itself; None: never."""
    caller: Caller = field(default_factory=current_caller)
    """Who submits it: whoever was asking when this was made."""
