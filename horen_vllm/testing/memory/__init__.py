"""The registry in memory: plain Python under one lock, for tests that need no database."""

from horen_vllm.testing.memory.registry import MemoryRegistry
from horen_vllm.testing.memory.state import Storage

__all__ = ["MemoryRegistry", "Storage"]
