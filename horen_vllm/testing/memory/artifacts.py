"""The register of artifacts in memory."""

from collections.abc import Mapping

from horen_vllm.testing.memory.state import MemoryStore


class MemoryArtifacts(MemoryStore):
    """`ports.ArtifactRegister` in memory, where nothing is ever collected."""

    def register_artifacts(self, sizes: Mapping[str, int]) -> None:
        """Do nothing: no file is in danger."""
