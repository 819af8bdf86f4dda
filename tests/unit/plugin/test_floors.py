"""Floors: an entry keeps silent up to a score of its own, in either group, and the report says which bound it was."""

from dataclasses import replace

import torch

from horen_vllm.core.match import NO_ENTRY, Routed
from horen_vllm.plugin.verdicts import Verdict, group_verdict, joint_verdict


def routed(entry: int, best: int, score: float) -> Routed:
    one = torch.tensor([entry])
    return Routed(
        one, torch.tensor([best]), torch.tensor([score]), torch.tensor([NO_ENTRY]), torch.tensor([-torch.inf])
    )


FLOORS = torch.tensor([0.7, -torch.inf, -torch.inf], dtype=torch.float64)


def verdict_of(entry: int, best: int, score: float, bound: float, floors: torch.Tensor | None = FLOORS) -> Verdict:
    own = None if floors is None else floors[torch.tensor([best])]
    return group_verdict(routed(entry, best, score), torch.tensor([bound], dtype=torch.float64), own)


def test_a_match_at_or_below_its_floor_is_none() -> None:
    for score, fires in ((0.69, False), (0.71, True)):
        verdict = verdict_of(0, 0, score, 0.5)
        assert int(verdict.entry) == (0 if fires else NO_ENTRY)
        assert float(verdict.threshold) == 0.7


def test_entries_without_a_floor_keep_the_threshold() -> None:
    verdict = verdict_of(1, 1, 0.6, 0.5)
    assert (int(verdict.entry), float(verdict.threshold)) == (1, 0.5)
    assert float(verdict_of(1, 1, 0.6, 0.5, None).threshold) == 0.5


def test_an_anchored_match_below_its_floor_leaves_the_open_one() -> None:
    of_open = verdict_of(1, 1, 0.6, 0.5)
    silent, firing = (verdict_of(0, 0, score, 0.1) for score in (0.65, 0.75))
    assert int(joint_verdict(of_open, silent).entry) == 1
    assert int(joint_verdict(of_open, firing).entry) == 0


def test_a_pack_carries_the_floor() -> None:
    from horen_vllm.pack import build_pack
    from tests.unit.plugin.entries import make_entry

    entry = make_entry("e1", keys=torch.eye(2, 8), seed=1)
    entry = replace(entry, manifest=replace(entry.manifest, floor=0.42))
    assert build_pack([(1, "a" * 64, entry)]).rows[0].floor == 0.42
