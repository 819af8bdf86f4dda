"""What ``/horen/v1/explain`` says about one routed request. Pure functions on decoded JSON."""

from collections.abc import Callable, Sequence
from typing import Any, Final

MAX_TOKENS: Final = 256
"""Most tokens that are listed; of a longer window its beginning and its end."""
CONTEXT: Final = 16
"""Tokens listed before and after the window."""

_DECISION: Final = ("fired", "edit_id", "score", "runner_up", "runner_up_score", "left_out")
"""What is passed on of a decision; ``left_out`` is there where entries were."""
_BLOCKED: Final = {
    "subject_absent": "its subject does not occur in the query span",
    "left_out": "the query span names more subjects than can be told apart, and its own comes after them",
}
"""Why an entry did not compete, by the engine's word for it."""

TokenTexts = Callable[[Sequence[int]], list[str]]
"""From token ids to the text of each."""


def explanation(decision: dict[str, Any], token_ids: Sequence[int], texts: TokenTexts) -> dict[str, Any]:
    """Return the answer's part that follows from the decision.

    Parameters
    ----------
    decision
        As in a response's choice, with ``span``, ``window`` and ``nearest``.
    token_ids
        The prompt, as the engine got it.
    """
    window = (int(decision["window"][0]), int(decision["window"][1]))
    shown = shown_positions(window, len(token_ids))
    return {
        "codebook": decision["codebook"],
        "revision": decision["revision"],
        "threshold": decision["threshold"],
        "decision": {key: decision[key] for key in _DECISION if key in decision},
        "nearest": [_entry(row, decision) for row in decision["nearest"]],
        "query_span": list(decision["span"] or (0, len(token_ids))),
        "query_window": list(window),
        "prompt_tokens": len(token_ids),
        "tokens": _tokens(shown, window, token_ids, texts),
    }


def shown_positions(window: tuple[int, int], length: int) -> list[int]:
    """Return the prompt positions to list: the window and a little around it, at most `MAX_TOKENS`."""
    positions = list(range(max(0, window[0] - CONTEXT), min(length, window[1] + CONTEXT)))
    if len(positions) <= MAX_TOKENS:
        return positions
    return positions[: MAX_TOKENS // 2] + positions[-(MAX_TOKENS // 2) :]


def _entry(row: dict[str, Any], decision: dict[str, Any]) -> dict[str, Any]:
    threshold = _threshold(row, decision)
    return {
        **row,
        "margin": row["score"] - threshold,
        "fires": row["edit_id"] == decision["edit_id"],
        "reason": _reason(row, decision),
    }


def _threshold(row: dict[str, Any], decision: dict[str, Any]) -> float:
    # An entry names its own where it has another than the group that decided.
    return float(row.get("threshold", decision["threshold"]))


def _reason(row: dict[str, Any], decision: dict[str, Any]) -> str:
    score, threshold, fired = row["score"], _threshold(row, decision), decision["edit_id"]
    if row["edit_id"] == fired:
        return f"fires: best score {score:.4f} > threshold {threshold:.4f}"
    if "blocked" in row:
        return _BLOCKED[row["blocked"]]
    if score <= threshold:
        return f"below the threshold by {threshold - score:.4f}" if score < threshold else "not above the threshold"
    if "outranked" in row:
        return f"an entry whose subject occurs comes first: {fired} with {decision['score']:.4f}"
    if score < decision["score"]:
        return f"another entry scored higher: {fired} with {decision['score']:.4f}"
    return f"no better than {fired}, which was submitted later"


def _tokens(
    positions: Sequence[int], window: tuple[int, int], token_ids: Sequence[int], texts: TokenTexts
) -> list[dict[str, Any]]:
    ids = [token_ids[position] for position in positions]
    return [
        {"position": position, "id": token, "text": text, "in_window": window[0] <= position < window[1]}
        for position, token, text in zip(positions, ids, texts(ids), strict=True)
    ]
