"""The edit site's routing by the kernels: codebooks of all kinds in one step are decided as by the form for CPUs."""

import pytest
import torch

from horen_vllm.kernels import dispatch
from horen_vllm.kernels.route import route_mixed_triton
from tests.unit.plugin.mixed_books import KINDS, ask, inputs_of, make_site


@pytest.mark.parametrize("first_scores", [False, True])
def test_a_step_of_many_codebooks(monkeypatch: pytest.MonkeyPatch, *, first_scores: bool) -> None:
    count = 2 * len(KINDS)
    inputs, order = inputs_of(count), torch.randperm(count, generator=torch.Generator().manual_seed(3)).tolist()
    expected, written = ask(make_site(count, first_scores=first_scores), order, inputs)
    monkeypatch.setattr(dispatch, "route_mixed", route_mixed_triton)
    reports, outputs = ask(make_site(count, first_scores=first_scores), order, inputs)
    assert torch.equal(outputs, written)
    for name, report in expected.items():
        for field in ("edit_id", "runner_up", "threshold"):
            assert reports[name][field] == report[field]
        for field in ("score", "runner_up_score"):
            assert reports[name][field] == pytest.approx(report[field], abs=1e-5)
    assert len({report["edit_id"] for report in reports.values()}) > 4
