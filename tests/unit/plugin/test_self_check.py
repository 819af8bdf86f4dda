"""The check after warm-up: a model that never calls the edit site does not start."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin import self_check
from horen_vllm.plugin.site import EditSite
from tests.unit.plugin.entries import D_IN, D_OUT, make_codebooks


def make_worker(site: EditSite, *, reaches: bool) -> Any:
    """Return a worker whose model calls the site while it is traced, and later only if it `reaches` it."""

    def forward(rows: int) -> None:
        site.run(torch.zeros(rows, D_IN), torch.zeros(rows, D_OUT))

    def warm_up() -> str:
        forward(4)
        return "warm"

    def dummy_run(num_tokens: int, **_kwargs: Any) -> None:
        if reaches:
            forward(num_tokens)

    runner = SimpleNamespace(_dummy_run=dummy_run)
    return SimpleNamespace(model_runner=runner, compile_or_warm_up_model=warm_up)


@pytest.fixture
def site() -> EditSite:
    return EditSite(make_codebooks(), num_slots=2, positions=torch.arange(8))


def test_a_model_that_reaches_the_site_starts(site: EditSite) -> None:
    worker = make_worker(site, reaches=True)
    self_check.after_warm_up(worker, site)
    assert worker.compile_or_warm_up_model() == "warm"


def test_a_compiled_model_without_the_site_is_refused(site: EditSite) -> None:
    worker = make_worker(site, reaches=False)
    self_check.after_warm_up(worker, site)
    with pytest.raises(FailedPrecondition, match="compile cache") as caught:
        worker.compile_or_warm_up_model()
    assert caught.value.code == "edit_op_missing"
