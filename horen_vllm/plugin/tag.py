"""What the two halves of a server write on a request: the codebook on its way in, the decision on its way out.

The tag is a few entries of ``SamplingParams.extra_args``. In a server only the middleware writes them; what a
client sends under these names is refused there. With ``LLM()`` the caller writes them himself.
"""

from dataclasses import dataclass
from typing import Any, Final

from horen_vllm.core.query import query_window

CODEBOOK_KEY: Final = "horen_codebook"
RATIO_KEY: Final = "horen_window_ratio"
SPAN_KEY: Final = "horen_span"
EXPLAIN_KEY: Final = "horen_explain"
RESERVED_PREFIX: Final = "horen_"
RESULT_KEY: Final = "horen"
"""Entry of a finished request's ``kv_transfer_params`` that holds its decision."""


@dataclass(frozen=True, slots=True)
class RequestTag:
    """Which codebook a request is routed through, and the query window that it needs."""

    codebook: str
    """Resource name: ``tenants/T/codebooks/C``."""
    window_ratio: float
    """Share of the query span, counted from its end, that is averaged; in (0, 1]."""
    span: tuple[int, int] | None = None
    """Query span as a half-open range of prompt positions; None: the whole prompt."""
    explain: int = 0
    """How many of the nearest entries the decision lists."""

    def query_span(self, prompt_length: int) -> tuple[int, int]:
        """Return the query span as a half-open range of prompt positions.

        It is cut to the prompt and never empty: admission has refused any other before.
        """
        start, stop = self.span or (0, prompt_length)
        stop = max(1, min(stop, prompt_length))
        return max(0, min(start, stop - 1)), stop

    def window(self, prompt_length: int) -> tuple[int, int]:
        """Return the half-open range of prompt positions whose site inputs are averaged (section 2.2)."""
        start, stop = self.query_span(prompt_length)
        first, last = query_window(stop - start, self.window_ratio)
        return start + first, start + last

    def to_extra_args(self) -> dict[str, Any]:
        """Return the entries that carry the tag through vLLM."""
        extra: dict[str, Any] = {CODEBOOK_KEY: self.codebook, RATIO_KEY: self.window_ratio}
        if self.span is not None:
            extra[SPAN_KEY] = list(self.span)
        if self.explain:
            extra[EXPLAIN_KEY] = self.explain
        return extra


def tag_of(sampling_params: Any) -> RequestTag | None:
    """Read a request's tag; None for a request of the clean model, and for what is not a tag of ours.

    Total: it runs in the scheduler, also of servers without our middleware, where a client may send anything.
    """
    extra = getattr(sampling_params, "extra_args", None)
    if not isinstance(extra, dict) or CODEBOOK_KEY not in extra:
        return None
    codebook, ratio = extra[CODEBOOK_KEY], extra.get(RATIO_KEY)
    if not isinstance(codebook, str) or isinstance(ratio, bool) or not isinstance(ratio, int | float):
        return None
    if not 0.0 < ratio <= 1.0:
        return None
    span, explain = extra.get(SPAN_KEY), extra.get(EXPLAIN_KEY, 0)
    if span is not None and not _is_range(span):
        return None
    if isinstance(explain, bool) or not isinstance(explain, int) or explain < 0:
        return None
    return RequestTag(codebook, float(ratio), tuple(span) if span is not None else None, explain)


def _is_range(span: Any) -> bool:
    if not isinstance(span, list | tuple) or len(span) != 2:
        return False
    return all(isinstance(edge, int) and not isinstance(edge, bool) for edge in span) and 0 <= span[0] < span[1]
