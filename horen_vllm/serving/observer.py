"""What the sync agent tells whoever counts its work."""

from typing import Protocol

from horen_vllm.ids import CodebookName


class Observer(Protocol):
    """Who counts what the agent does."""

    def flipped(self, name: CodebookName, revision: int) -> None:
        """Every worker serves a revision."""
        ...

    def staging_refused(self, name: CodebookName, code: str) -> None:
        """A revision was refused."""
        ...

    def latest(self, name: CodebookName, revision: int) -> None:
        """The control plane has named a revision."""
        ...

    def sync_failed(self, code: str) -> None:
        """The control plane did not answer, or refused."""
        ...
