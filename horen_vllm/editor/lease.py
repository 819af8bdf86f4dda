"""A claim kept alive from a background thread while its edit is trained.

Knows the registry's port only; losing the claim is reported when it is used, not raised in the thread.
"""

import threading
from types import TracebackType
from typing import Final, Self

import structlog

from horen_vllm.errors import HorenError
from horen_vllm.registry.models import Claim
from horen_vllm.registry.ports import EditQueue

_EXTENSIONS_PER_LEASE: Final = 3
"""Two extensions may fail before the lease ends."""


class LeaseKeeper:
    """Extends a claim's lease inside a ``with`` block, every third of its length.

    Parameters
    ----------
    queue
        The registry.
    claim
        The claim to keep.
    lease_s
        Length of each extension in seconds.
    """

    def __init__(self, queue: EditQueue, claim: Claim, *, lease_s: float) -> None:
        self._queue = queue
        self._claim = claim
        self._lease_s = lease_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{claim.edit.edit_id}", daemon=True)

    def __enter__(self) -> Self:
        """Start extending."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop extending; waits for an extension in progress."""
        self._done.set()
        self._thread.join()

    def _keep(self) -> None:
        log = structlog.get_logger().bind(edit_id=self._claim.edit.edit_id, attempt=self._claim.attempt)
        while not self._done.wait(self._lease_s / _EXTENSIONS_PER_LEASE):
            try:
                self._queue.extend(self._claim, lease_s=self._lease_s)
            except HorenError as exc:
                log.warning("lease not extended", code=exc.code, reason=exc.message)
                if exc.code == "claim_lost":
                    return
