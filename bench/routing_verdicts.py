"""What the measured rounds of routing come to: ratios with intervals, and whether a row's goal is met.

Goals, for the lower bound of the interval: with raw keys, refinement and one query, three readings take at least 2.5
times ours (`RAW_GOAL`; one query, since a server routes a request when its prompt ends); with whitened keys FAISS's
flat index takes at least our time on a CPU, and on a GPU one query reads keys at 80 % of the copy's bandwidth or more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from bench.intervals import interval
from bench.routing_books import WHITENED, Keys, Kind
from bench.routing_clock import Taken
from bench.routing_sides import COPY, FAISS, OURS, THREE
from horen_vllm.kernels.route import WIDEST_SWEEP

MARGIN: Final = 0.01
"""By which an interval's lower bound may miss a goal."""
RAW_GOAL, FAISS_GOAL, BANDWIDTH_GOAL = 2.5, 1.0, 0.8
Times = Mapping[str, Sequence[Taken]]


@dataclass(frozen=True, slots=True)
class Row:
    """What was asked, and how.

    Attributes
    ----------
    again
        Share of the keys that our route read a second time; None where it is not counted.
    """

    kind: Kind
    method: str
    rule: Mapping[str, Any]
    batch: int
    on_gpu: bool
    again: float | None = None

    @property
    def readings(self) -> float:
        """Readings of all keys that our route takes; without what is read again where that is not counted."""
        steps: int = self.rule["steps"]
        if steps == 0:
            return 1.0
        twice = self.on_gpu and self.kind.width > WIDEST_SWEEP and "sure_above" not in self.rule
        return (2 if twice else 1) * steps + (self.again or 0.0)

    @property
    def naive_readings(self) -> int:
        """Readings that the definition takes."""
        return 2 * int(self.rule["steps"]) + 1


def met(ratio: Mapping[str, float], goal: float) -> bool:
    """Return whether a ratio's lower bound reaches a goal, but for the margin."""
    return ratio["low"] >= goal - MARGIN


def judged(row: Row, ratios: Mapping[str, Mapping[str, float]], share: Mapping[str, float]) -> dict[str, Any]:
    """Return the ratio that counts for a row, its goal and whether it is met; both None where there is none.

    Parameters
    ----------
    ratios
        Times ours that each other side takes, by its name.
    share
        Of the copy's bandwidth.
    """
    of, ratio, goal = f"{THREE} / {OURS}", ratios[THREE], None
    if row.kind is not WHITENED:
        goal = RAW_GOAL if row.batch == 1 and row.rule["steps"] else None
    elif row.on_gpu:
        of, ratio, goal = "bytes of the keys a second / bytes of the copy", share, None
        goal = BANDWIDTH_GOAL if row.batch == 1 else None
    elif FAISS in ratios:
        of, ratio, goal = f"{FAISS} / {OURS}", ratios[FAISS], FAISS_GOAL
    reached = None if goal is None else met(ratio, goal)
    return {"ratio_of": of, "ratio": dict(ratio), "goal": goal, "met": reached, "note": _note(row, goal)}


def summary(row: Row, times: Times, keys: Keys, moved: int) -> dict[str, Any]:
    """Return a row of the result, from the times of all sides of its method, round by round.

    Parameters
    ----------
    moved
        Bytes that the copy reads and writes.
    """
    own = [taken.seconds for taken in times[OURS]]
    ratios = {
        name: interval([taken.seconds / mine for taken, mine in zip(found, own, strict=True)])
        for name, found in times.items()
    }
    copied = [moved / taken.seconds for taken in times[COPY]]
    share = interval([keys.bytes / mine / best for mine, best in zip(own, copied, strict=True)])
    return {
        **judged(row, ratios, share),
        "readings": {OURS: round(row.readings, 4), THREE: row.naive_readings},
        "keys_read_again": row.again,
        "sides": {name: {**_times(found), "times_ours": ratios[name]} for name, found in times.items()},
        "copy_gb_a_second": median(copied) / 1e9,
        "share_of_copy_bandwidth": share,
    }


def of_method(times: Times, method: str, form: str) -> dict[str, Sequence[Taken]]:
    """Return the sides of one method under their plain names, ours in one form, and those that have none."""
    named = {name.partition(":"): found for name, found in times.items()}
    return {side: found for (side, _, of), found in named.items() if of in {"", form if side == OURS else method}}


def mixed_summary(times: Times, one: str, others: str) -> dict[str, Any]:
    """Return times of one call for many codebooks and of a call for each, and their ratio."""
    pairs = zip(times[others], times[one], strict=True)
    return {
        "ratio_of": f"{others} / {one}",
        "ratio": interval([many.seconds / single.seconds for many, single in pairs]),
        "goal": None,
        "met": None,
        "sides": {name: _times(found) for name, found in times.items()},
    }


def _times(found: Sequence[Taken]) -> dict[str, float]:
    hosts = [taken.host for taken in found if taken.host is not None]
    times = {"milliseconds": 1e3 * median(taken.seconds for taken in found)}
    return {**times, "host_milliseconds": 1e3 * median(hosts)} if hosts else times


def _note(row: Row, goal: float | None) -> str | None:
    """Return why a goal is out of reach of any form that reads the keys as often as ours."""
    if goal != RAW_GOAL or row.naive_readings / row.readings >= goal:
        return None
    most = f"at most {row.naive_readings / row.readings:.2f} times where time is readings"
    if row.on_gpu and row.kind.width > WIDEST_SWEEP and "sure_above" not in row.rule:
        return f"keys wider than {WIDEST_SWEEP:,} are read twice a step on a GPU: {most}"
    return f"{100 * (row.again or 0.0):.0f} % of the keys are read again after refinement: {most}"
