"""100 edits of the demo world and 500 facts that nobody edited, as ``make quality`` measures them."""

import pytest
from rich.console import Console

from bench.edit_quality import run


@pytest.mark.engine
@pytest.mark.matrix
@pytest.mark.timeout(1200)
def test_edits_hold_and_silent_requests_keep_the_tokens_of_plain_vllm() -> None:
    [row] = run(["cosine"], Console(stderr=True))["presets"]
    assert row["edits"] == 100
    assert row["reliability"] >= 0.98, row
    assert row["silent_requests"] >= 800, row
    assert row["silent_requests_token_identical"] == row["silent_requests"], row
