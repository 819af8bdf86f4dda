"""A request that no edit fires on gets the bits of vLLM without the plugin (bf16, equal batch geometry)."""

from pathlib import Path

import pytest

from tests.e2e.bits import check_bit_identity
from tests.e2e.engines import needs_compiler
from tests.e2e.launch import run_module
from tests.e2e.oracle import Oracle

pytestmark = pytest.mark.engine


def test_eager(model_folder: str, site: str, tmp_path: Path) -> None:
    check_bit_identity(model_folder, site, Oracle(model_folder, site), tmp_path, enforce_eager=True)


@pytest.mark.matrix
@needs_compiler
def test_torch_compile(model_folder: str, site: str, tmp_path: Path) -> None:
    check_bit_identity(model_folder, site, Oracle(model_folder, site), tmp_path, enforce_eager=False)


@pytest.mark.matrix
def test_the_v2_runner(model_folder: str, site: str) -> None:
    run_module("tests.e2e.bits", model_folder, site, v2=True)
