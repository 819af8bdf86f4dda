"""Decisions on their way from the device to the host: copied without a wait, read once somebody needs them."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from horen_vllm.core.match import NO_ENTRY
from horen_vllm.plugin.revisions import RevisionView
from horen_vllm.plugin.subjects import Subjects
from horen_vllm.plugin.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """One request's decision on the host; None stands for "no entry"."""

    entry: int | None
    score: float
    runner_up: int | None
    runner_up_score: float
    threshold: float
    """What the score had to exceed."""
    nearest: tuple[tuple[int, float], ...] = ()
    """(entry, score) of the best entries, best first; as many as the request asked for."""


class DecisionBatch:
    """The decisions of requests that were routed in one step.

    Parameters
    ----------
    verdict
        Tensors on the device, one row a request.
    nearest
        (entries [k], scores [k]) for each request that asked for them, else None.
    """

    def __init__(self, verdict: Verdict, nearest: Sequence[tuple[torch.Tensor, torch.Tensor] | None]) -> None:
        # Double holds every index and every float32 exactly, so one copy carries both.
        self._table = _to_host(torch.stack([column.double() for column in verdict.columns()], dim=1))
        self._nearest = [None if pair is None else tuple(map(_to_host, pair)) for pair in nearest]
        self._copied = _event(verdict.entry.device)
        self._decisions: list[Decision] | None = None
        self._lock = threading.Lock()

    @property
    def is_read(self) -> bool:
        """Whether `read` returns at once."""
        return self._decisions is not None

    def read(self) -> list[Decision]:
        """Return the decisions, waiting for the device if they are still on their way. Safe on any thread."""
        with self._lock:
            if self._decisions is None:
                if self._copied is not None:
                    self._copied.synchronize()
                rows = zip(self._table.tolist(), self._nearest, strict=True)
                self._decisions = [_decision(row, pair) for row, pair in rows]
            return self._decisions


def report(
    view: RevisionView, decision: Decision, window: tuple[int, int], explain: int, subjects: Subjects
) -> dict[str, Any]:
    """Return a decision in plain JSON types, as it travels to the API server."""
    fields: dict[str, Any] = {
        "codebook": view.codebook,
        "revision": view.revision,
        "edit_id": _edit(view, decision.entry),
        "score": _finite(decision.score),
        "runner_up": _edit(view, decision.runner_up),
        "runner_up_score": _finite(decision.runner_up_score),
        "threshold": decision.threshold,
    }
    if subjects.left_out:
        fields["left_out"] = len(subjects.left_out)
    if explain:
        fields |= {"window": list(window), "nearest": _nearest(view, decision, subjects)}
    return fields


def report_missing(codebook: str) -> dict[str, Any]:
    """Return the report of a request whose codebook was gone when it was admitted: the clean model answers it."""
    scores = {"score": None, "runner_up": None, "runner_up_score": None, "threshold": None}
    return {"codebook": codebook, "revision": None, "edit_id": None, **scores}


def _nearest(view: RevisionView, decision: Decision, subjects: Subjects) -> list[dict[str, Any]]:
    """Return a row an entry: its score, its threshold where another decided, and why it stood behind or aside."""
    # An entry whose keys all belong to a newer edit has no score.
    near = [(entry, score) for entry, score in decision.nearest if math.isfinite(score)]
    competing, fired, rows = subjects.competing, decision.entry, []
    anchored_fired = fired is not None and view.is_anchored(fired)
    for entry, score in near:
        row: dict[str, Any] = {"edit_id": view.edit_ids[entry], "score": score}
        threshold = view.threshold_of(entry)
        if threshold != decision.threshold:
            row["threshold"] = threshold
        if not view.is_anchored(entry):
            row |= {"outranked": True} if anchored_fired else {}
        elif entry not in competing:
            row["blocked"] = "left_out" if entry in subjects.left_out else "subject_absent"
        rows.append(row)
    return rows


def _decision(row: list[float], nearest: tuple[torch.Tensor, ...] | None) -> Decision:
    entry, score, runner_up, runner_up_score, threshold = row
    pairs = zip(nearest[0].tolist(), nearest[1].tolist(), strict=True) if nearest is not None else ()
    return Decision(_index(entry), score, _index(runner_up), runner_up_score, threshold, tuple(pairs))


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device.type == "cpu":
        return tensor
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)


def _event(device: torch.device) -> Any:
    if device.type == "cpu":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


def _index(value: float) -> int | None:
    return None if value == NO_ENTRY else int(value)


def _edit(view: RevisionView, entry: int | None) -> str | None:
    return None if entry is None else view.edit_ids[entry]


def _finite(score: float) -> float | None:
    # JSON has neither infinity nor NaN; an empty codebook has no best score.
    return score if math.isfinite(score) else None
