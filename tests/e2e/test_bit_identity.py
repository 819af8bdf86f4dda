"""A request that no edit fires on gets the bits of vLLM without the plugin (bf16, equal batch geometry)."""

from pathlib import Path

import pytest

from tests.e2e.bits import check_bit_identity
from tests.e2e.oracle import Oracle

SITE = "model.layers.3.mlp.down_proj"


@pytest.mark.engine
def test_eager(model_folder: str, tmp_path: Path) -> None:
    check_bit_identity(model_folder, SITE, Oracle(model_folder, SITE), tmp_path, enforce_eager=True)


@pytest.mark.engine
@pytest.mark.matrix
def test_torch_compile(model_folder: str, tmp_path: Path) -> None:
    check_bit_identity(model_folder, SITE, Oracle(model_folder, SITE), tmp_path, enforce_eager=False)
