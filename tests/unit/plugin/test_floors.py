"""Floors: an entry keeps silent up to a score of its own, in either group, and the report says which bound it was."""

from dataclasses import replace

import torch

from horen_vllm.core.match import NO_ENTRY, Routed
from horen_vllm.plugin.verdicts import group_verdict, joint_verdict


def routed(entry: int, best: int, score: float) -> Routed:
    one = torch.tensor([entry])
    return Routed(
        one, torch.tensor([best]), torch.tensor([score]), torch.tensor([NO_ENTRY]), torch.tensor([-torch.inf])
    )


FLOORS = torch.tensor([0.7, -torch.inf, -torch.inf], dtype=torch.float64)


def test_a_match_at_or_below_its_floor_is_none() -> None:
    for score, fires in ((0.69, False), (0.71, True)):
        verdict = group_verdict(routed(0, 0, score), 0.5, FLOORS)
        assert int(verdict.entry) == (0 if fires else NO_ENTRY)
        assert float(verdict.threshold) == 0.7


def test_entries_without_a_floor_keep_the_threshold() -> None:
    verdict = group_verdict(routed(1, 1, 0.6), 0.5, FLOORS)
    assert (int(verdict.entry), float(verdict.threshold)) == (1, 0.5)
    assert float(group_verdict(routed(1, 1, 0.6), 0.5, None).threshold) == 0.5


def test_an_anchored_match_below_its_floor_leaves_the_open_one() -> None:
    of_open = group_verdict(routed(1, 1, 0.6), 0.5, FLOORS)
    silent, firing = (group_verdict(routed(0, 0, score), 0.1, FLOORS) for score in (0.65, 0.75))
    assert int(joint_verdict(of_open, silent).entry) == 1
    assert int(joint_verdict(of_open, firing).entry) == 0


def test_a_pack_carries_the_floor() -> None:
    from horen_vllm.pack import build_pack
    from tests.unit.plugin.entries import make_entry

    entry = make_entry("e1", keys=torch.eye(2, 8), seed=1)
    entry = replace(entry, manifest=replace(entry.manifest, floor=0.42))
    assert build_pack([(1, "a" * 64, entry)]).rows[0].floor == 0.42
