"""Query window: which prompt tokens make the key or query (section 2.2, last n % of the prompt)."""

import math


def query_window(num_tokens: int, ratio: float) -> tuple[int, int]:
    """Return the half-open token range whose site inputs are averaged: the last ``ceil(ratio * num_tokens)``.

    Editor and server both call this on token ids, so key and query always mean the same tokens.

    Parameters
    ----------
    num_tokens
        Length of the query span in tokens; at least 1.
    ratio
        Share of the span, in (0, 1].

    Raises
    ------
    ValueError
        If the span is empty or the ratio is out of range: both are checked where they enter the system.
    """
    if num_tokens < 1 or not 0.0 < ratio <= 1.0:
        raise ValueError(f"no query window for {num_tokens} tokens at ratio {ratio}")
    return num_tokens - math.ceil(ratio * num_tokens), num_tokens
