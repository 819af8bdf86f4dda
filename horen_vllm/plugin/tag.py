"""What the two halves of a server write on a request: the codebook on its way in, the decision on its way out.

The tag is two entries of ``SamplingParams.extra_args``. Only the API server's middleware writes them; what a
client sends under these names is refused there.
"""

from dataclasses import dataclass
from typing import Any, Final

from horen_vllm.core.query import query_window

CODEBOOK_KEY: Final = "horen_codebook"
RATIO_KEY: Final = "horen_window_ratio"
RESERVED_PREFIX: Final = "horen_"
RESULT_KEY: Final = "horen"
"""Entry of a finished request's ``kv_transfer_params`` that holds its decision."""


@dataclass(frozen=True, slots=True)
class RequestTag:
    """Which codebook a request is routed through, and the query window it will need."""

    codebook: str
    window_ratio: float

    def window_start(self, prompt_length: int) -> int:
        """Return the first prompt position whose site input counts (section 2.2)."""
        return query_window(prompt_length, self.window_ratio)[0]

    def to_extra_args(self) -> dict[str, str | float]:
        """Return the entries that carry the tag through vLLM."""
        return {CODEBOOK_KEY: self.codebook, RATIO_KEY: self.window_ratio}


def tag_of(sampling_params: Any) -> RequestTag | None:
    """Read a request's tag; None for a request of the clean model, and for what is not a tag of ours.

    It runs in the scheduler, also of servers without our middleware, where a client may send anything.
    """
    extra = getattr(sampling_params, "extra_args", None) or {}
    codebook, ratio = extra.get(CODEBOOK_KEY), extra.get(RATIO_KEY)
    if not isinstance(codebook, str) or not isinstance(ratio, int | float) or not 0.0 < ratio <= 1.0:
        return None
    return RequestTag(codebook, float(ratio))
