"""What the served endpoint does with edited, rephrased and unedited questions, and what the numbers come to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

from bench.routing_data import RoutingData
from horen_vllm.evals.endpoint import Answer, Endpoint

Ask = Callable[[Sequence[str]], Sequence[Answer]]


@dataclass(frozen=True, slots=True)
class Asked:
    """The answers of one codebook, by kind of question."""

    own: Sequence[Answer]
    rephrased: Sequence[Answer]
    near: Sequence[Answer]
    unrelated: Sequence[Answer]
    same_subject: Sequence[Answer]
    """On the edits of `RoutingData.same_subject`, in its order."""


def ask_all(endpoint: Endpoint, model: str, data: RoutingData, most: int) -> Asked:
    """Ask everything by completions; of the edits and their rephrases the first `most`."""

    def ask(prompts: Sequence[str]) -> Sequence[Answer]:
        return endpoint.ask_all(model, prompts)

    return Asked(
        own=ask([row["prompt"] for row in data.edits[:most]]),
        rephrased=ask([row["rephrase"] for row in data.edits[:most]]),
        near=ask(data.near),
        unrelated=ask(data.unrelated),
        same_subject=ask([text for number, text in data.same_subject if number < most]),
    )


def measured(asked: Asked, data: RoutingData, edit_ids: Sequence[str | None]) -> dict[str, Any]:
    """Return the rates of one codebook at its own threshold.

    Parameters
    ----------
    edit_ids
        Of the edits that are served, in the order of `data.edits`; None for one that failed.
    """
    targets = [row["target"] for row in data.edits[: len(asked.own)]]
    same = [number for number, _ in data.same_subject if number < len(asked.own)]
    return {
        "edits": len(edit_ids),
        "published": sum(edit_id is not None for edit_id in edit_ids),
        "reliability": rate([answer.text == target for answer, target in zip(asked.own, targets, strict=True)]),
        "generalisation": rate(
            [answer.text == target for answer, target in zip(asked.rephrased, targets, strict=True)]
        ),
        "rephrase_finds_its_edit": rate(right(asked.rephrased, edit_ids)),
        "fires_near": rate([answer.fired for answer in asked.near]),
        "fires_unrelated": rate([answer.fired for answer in asked.unrelated]),
        "fires_same_subject": rate(
            [answer.edit_id == edit_ids[number] for answer, number in zip(asked.same_subject, same, strict=True)]
        ),
    }


def at_equal_rates(asked: Asked, data: RoutingData, near_rate: float) -> dict[str, Any]:
    """Return the generalisation at the lowest score at which near questions fire at most so often.

    The answers were given at the codebook's own threshold, so the score must be at least that; it then only takes
    answers away.
    """
    scores = sorted((_score(answer) for answer in asked.near), reverse=True)
    limit = scores[int(near_rate * len(scores))]
    fired = sorted((_score(answer) for answer in asked.near if answer.fired), reverse=True)
    targets = [row["target"] for row in data.edits[: len(asked.rephrased)]]
    hits = [
        answer.text == target and answer.fired and _score(answer) > limit
        for answer, target in zip(asked.rephrased, targets, strict=True)
    ]
    return {
        "near_rate": near_rate,
        # With fewer fires than asked for, the codebook's own threshold is the bound, and the true number is higher.
        "bounded_by_own_threshold": len(fired) <= int(near_rate * len(scores)),
        "generalisation": rate(hits),
        "fires_unrelated": rate([answer.fired and _score(answer) > limit for answer in asked.unrelated]),
    }


def same_subject_at_recall(asked: Asked, edit_ids: Sequence[str | None], recall: float) -> dict[str, Any] | None:
    """Return the share of other questions on the subject that fire where so many rephrases find their edit."""
    hits = right(asked.rephrased, edit_ids)
    scores = sorted((_score(answer) if hit else -inf for answer, hit in zip(asked.rephrased, hits, strict=True)))[::-1]
    limit = scores[max(0, int(recall * len(scores)) - 1)]
    if limit == -inf:
        return None
    return rate([answer.fired and _score(answer) >= limit for answer in asked.same_subject])


def right(answers: Sequence[Answer], edit_ids: Sequence[str | None]) -> list[bool]:
    """Return whether each answer is of the edit in its place."""
    return [answer.edit_id is not None and answer.edit_id == edit_ids[at] for at, answer in enumerate(answers)]


def rate(hits: Sequence[bool]) -> dict[str, Any]:
    """Return a share with its Wilson 95 % interval."""
    count, total = sum(hits), len(hits)
    if not total:
        return {"share": None, "of": 0}
    z = 1.959964
    centre = (count + z * z / 2) / (total + z * z)
    half = z * sqrt(count * (total - count) / total + z * z / 4) / (total + z * z)
    interval = [round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)]
    return {"share": round(count / total, 4), "interval": interval, "of": total}


def _score(answer: Answer) -> float:
    return -inf if answer.score is None else answer.score
