"""Submit and roll back, supersede and roll back: every score and decision has the bits that it had before."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from horen_vllm.core.match import Routed
from horen_vllm.kernels.route_cpu import route_cpu
from horen_vllm.plugin.codebooks import PagedCodebooks
from horen_vllm.plugin.revisions import RevisionView
from tests.unit.plugin.entries import D_IN, make_codebooks, make_entry, parameters, publish, update_of

ENTRIES = 40


def routed(codebooks: PagedCodebooks, view: RevisionView, queries: torch.Tensor) -> Routed:
    rule = view.parameters
    return route_cpu(
        queries,
        codebooks.keys(view),
        view.open.rows,
        view.open.owners,
        view.sequences,
        beta=rule.beta,
        gamma=rule.gamma,
        steps=rule.steps,
        epsilon=rule.epsilon,
        threshold=rule.threshold,
    )


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("fresh", [False, True], ids=["by deltas", "loaded anew"])
def test_what_was_rolled_back_leaves_no_bit(steps: int, *, fresh: bool) -> None:
    rule = replace(parameters(), steps=steps, gamma=0.1, threshold=0.3125)
    made = [(number, make_entry(f"e{number}", seed=number)) for number in range(1, ENTRIES + 1)]
    codebooks = make_codebooks(512, 512)
    before = publish(codebooks, update_of("a", 1, made, rule=rule))
    generator = torch.Generator().manual_seed(7)
    queries = F.normalize(torch.randn(64, D_IN, generator=generator), dim=1)
    expected, names = routed(codebooks, before, queries), list(before.edit_ids)

    moved = replace(rule, threshold=0.5)
    newer = (ENTRIES + 1, make_entry("newer", seed=99))
    publish(codebooks, update_of("a", 2, [newer], base=1, removed=["e5"], rule=moved))
    if fresh:
        codebooks = make_codebooks(512, 512)
        after = publish(codebooks, update_of("a", 3, list(reversed(made)), rule=rule))
    else:
        after = publish(codebooks, update_of("a", 3, [made[4]], base=2, removed=["newer"], rule=rule))
    assert after.edit_ids == names
    assert after.parameters == before.parameters
    found = routed(codebooks, after, queries)
    for one, other in zip(
        (expected.entry, expected.best, expected.runner_up, expected.score, expected.runner_up_score),
        (found.entry, found.best, found.runner_up, found.score, found.runner_up_score),
        strict=True,
    ):
        assert torch.equal(
            one.view(torch.int32) if one.dtype is torch.float32 else one,
            other.view(torch.int32) if other.dtype is torch.float32 else other,
        )
