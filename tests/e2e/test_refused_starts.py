"""Engines that must not start, started for real: a server that cannot serve edits right says so before it serves."""

import pytest

from horen_vllm.errors import HorenError
from horen_vllm.plugin import op
from tests.e2e.engines import stepped_engine

pytestmark = [pytest.mark.engine, pytest.mark.matrix]


@pytest.fixture(autouse=True)
def _restored_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # The engines helper sets them for good.
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_PLUGINS", "horen")


def refusal(model: str, site: str) -> HorenError:
    """Start an engine that refuses, and return how."""
    with pytest.raises(HorenError) as caught, stepped_engine(model, site, dtype="float32", enforce_eager=True):
        pass
    return caught.value


def test_an_edit_site_that_the_model_does_not_have(model_folder: str) -> None:
    refused = refusal(model_folder, "model.layers.99.mlp.down_proj")
    assert refused.code == "unknown_site"
    assert "model.layers.99.mlp.down_proj" in refused.message


def test_an_edit_site_that_is_no_row_parallel_layer(model_folder: str, site: str) -> None:
    assert refusal(model_folder, site.replace("down_proj", "gate_up_proj")).code == "unsupported_site"


def test_a_model_whose_forward_pass_lacks_the_op(model_folder: str, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an artefact of a run without the plugin would do: everything is in place but the call."""
    monkeypatch.setattr(op, "hook", lambda linear, name, edit_site: None)
    refused = refusal(model_folder, site)
    assert refused.code == "edit_op_missing"
