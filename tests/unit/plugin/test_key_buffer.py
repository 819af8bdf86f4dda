"""The key buffer's memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from horen_vllm.plugin.key_buffer import KeyBuffer

MAPS = Path("/proc/self/smaps")
CHOICES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def flags_of(address: int) -> list[str]:
    """Return the flags of the memory mapping that has an address."""
    for first, last, flags in mappings():
        if first <= address < last:
            return flags
    raise AssertionError(f"{address:x} is not mapped")


def mappings() -> Iterator[tuple[int, int, list[str]]]:
    first = last = 0
    for line in MAPS.read_text().splitlines():
        head, *words = line.split()
        if "-" in head and not head.endswith(":"):
            first, last = (int(end, 16) for end in head.split("-"))
        elif head == "VmFlags:":
            yield first, last, words


@pytest.mark.skipif(not (MAPS.exists() and CHOICES.exists()), reason="Linux with large pages")
def test_linux_is_asked_for_large_pages() -> None:
    buffer = KeyBuffer(16 << 20, torch.device("cpu"))
    middle = buffer.numbers.data_ptr() + (32 << 20)
    assert "hg" in flags_of(middle)
    plain = torch.zeros(16 << 20)
    assert "hg" not in flags_of(plain.data_ptr() + (32 << 20))


def test_it_is_zero_at_first_or_no_number() -> None:
    for poison in (False, True):
        numbers = KeyBuffer(1000, torch.device("cpu"), poison=poison).numbers
        assert numbers.dtype == torch.float32
        assert bool(numbers.isnan().all()) if poison else bool((numbers == 0.0).all())
