"""How much memory a model folder's weights need, and how much there is."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from horen_vllm.editor.loading.model_size import StoredTensor, available_bytes, check_fits
from horen_vllm.errors import FailedPrecondition

GIB = 1 << 30
HALF = StoredTensor("model.embed_tokens.weight", "F16", (GIB, 1), 2 * GIB)
PACKED = StoredTensor("model.layers.0.mlp.experts.down_proj_blocks", "U8", (GIB,), GIB)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Let a test say how many GiB are free on the host and on the GPU."""
    free = SimpleNamespace(host=0.0, gpu=0.0)
    host = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=int(free.host * GIB)))
    monkeypatch.setattr("horen_vllm.editor.loading.model_size.psutil", host)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free.gpu * GIB), 80 * GIB))
    return free


def refused(tensor: StoredTensor, dtype: torch.dtype, device: str) -> str:
    """Return how it is refused; empty when it fits."""
    try:
        check_fits([tensor], dtype, device)
    except FailedPrecondition as error:
        return f"{error.code}: {error.message}"
    return ""


@pytest.mark.parametrize(("free", "fits"), [(2.0, False), (2.34, False), (2.36, True)])
def test_the_margin_is_a_twentieth_and_256_mib(memory: SimpleNamespace, free: float, fits: bool) -> None:
    memory.host = free
    message = refused(HALF, torch.float16, "cpu")
    assert message == "" if fits else message.startswith("model_too_large: ")


def test_a_gpu_is_asked_for_the_weights_and_the_host_for_what_is_converted(memory: SimpleNamespace) -> None:
    memory.host, memory.gpu = 0.0, 3.0
    assert refused(HALF, torch.float16, "cuda") == ""
    assert "memory of cpu: its weights take 2.00 GiB in bfloat16" in refused(HALF, torch.bfloat16, "cuda")
    memory.host = 3.0
    assert refused(HALF, torch.bfloat16, "cuda") == ""
    assert "memory of cuda: its weights take 4.00 GiB in float32" in refused(HALF, torch.float32, "cuda")
    memory.gpu = 2.0
    assert "2.00 GiB are left" in refused(HALF, torch.float16, "cuda")


def test_packed_weights_grow_where_they_are_unpacked(memory: SimpleNamespace) -> None:
    memory.host = memory.gpu = 3.0
    assert "4.00 GiB in bfloat16" in refused(PACKED, torch.bfloat16, "cpu")
    assert refused(PACKED, torch.bfloat16, "cuda") == ""


def test_a_control_group_bounds_the_memory(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    free = available_bytes(cpu, tmp_path)
    assert free is not None
    assert free > 1 << 20
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 700000\nactive_file 30000\ninactive_file 20000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (available_bytes(cpu, tmp_path) or 0) > 1 << 20
    (tmp_path / "memory.max").write_text("1000000\n")
    assert available_bytes(cpu, tmp_path) == 1_000_000 - 900_000 + 50_000


def test_of_an_unknown_device_nothing_is_said() -> None:
    assert available_bytes(torch.device("meta")) is None
