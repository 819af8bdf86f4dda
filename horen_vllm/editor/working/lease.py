"""Claims kept alive from a background thread while their edits are made.

Knows the registry's port only; that a claim is lost is seen when it is asked for, not raised in the thread.
"""

import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Self

import structlog

from horen_vllm.errors import HorenError
from horen_vllm.ids import EditId
from horen_vllm.registry.edit_ports import EditQueue
from horen_vllm.registry.models import Claim

_EXTENSIONS_PER_LEASE: Final = 3
"""Two extensions may fail before the lease ends."""


class LeaseKeeper:
    """Extends the leases of claims inside a ``with`` block, all at once, every third of their length.

    Parameters
    ----------
    queue
        The registry.
    claims
        The claims to keep, all of one codebook.
    lease_s
        Length of each extension in seconds.
    """

    def __init__(self, queue: EditQueue, claims: Sequence[Claim], *, lease_s: float) -> None:
        self._queue = queue
        self._lease_s = lease_s
        self._kept = {claim.edit.edit_id: claim for claim in claims}
        self._lost: set[EditId] = set()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

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

    def __contains__(self, claim: Claim) -> bool:
        """Whether the claim is kept: neither lost, as far as is known, nor released."""
        with self._lock:
            return claim.edit.edit_id in self._kept

    @property
    def lost(self) -> frozenset[EditId]:
        """The edits that somebody else has now."""
        with self._lock:
            return frozenset(self._lost)

    def release(self, edits: Iterable[EditId]) -> None:
        """Keep the claims of these edits no longer; they are closed."""
        with self._lock:
            for edit_id in edits:
                self._kept.pop(edit_id, None)
                # The registry holds no claim on a closed edit, and may have said so before this call.
                self._lost.discard(edit_id)

    def refresh(self) -> None:
        """Extend now, and find out which claims are lost.

        Raises
        ------
        Unavailable
            When the registry does not answer.
        """
        with self._lock:
            asked = tuple(self._kept.values())
        held = {claim.edit.edit_id for claim in self._queue.extend(asked, lease_s=self._lease_s)}
        with self._lock:
            gone = {claim.edit.edit_id for claim in asked} - held
            self._lost |= gone & self._kept.keys()
            for edit_id in gone:
                self._kept.pop(edit_id, None)

    def _keep(self) -> None:
        while not self._done.wait(self._lease_s / _EXTENSIONS_PER_LEASE):
            try:
                self.refresh()
            except HorenError as exc:
                structlog.get_logger().warning("leases not extended", code=exc.code, reason=exc.message)
            except Exception:  # noqa: BLE001 - told in the log
                # A keeper that ended would let every claim of the batch run out.
                structlog.get_logger().exception("leases not extended")
