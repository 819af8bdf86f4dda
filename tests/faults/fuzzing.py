"""Calls with random requests, and what a call may end with."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

import grpc
from google.protobuf.descriptor import MethodDescriptor

from horen_vllm.control._pb.horen.v1 import admin_pb2, codebooks_pb2, edits_pb2, replicas_pb2
from tests.faults.conftest import BOOK
from tests.faults.messages import MARK, Maker
from tests.unit.serving.live.world import FINGERPRINT

METHODS: Final = tuple(
    method
    for file in (edits_pb2, codebooks_pb2, replicas_pb2, admin_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
TOGETHER: Final = 24
"""Calls that run at the same time."""
WAITING: Final = frozenset({"Sync", "PreviewEdit"})
"""Calls that wait for somebody else, as watches do."""
_WAIT_S: Final = 0.1
_BROKEN_PIPE: Final = "Internal error from Core"
"""What gRPC's own client says when it writes to a call that the server has ended; the server's log has the truth.

It says nothing, and cancels the call by itself, where its last word is what comes too late."""
_EXPECTED: Final = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)


class Fuzz:
    """Makes random calls with an admin key.

    Parameters
    ----------
    address, secret
        The server, and a key that opens all of it.
    seed
        Decides on the requests.
    known
        As of `Maker`.
    """

    def __init__(self, address: str, secret: str, seed: int, known: Mapping[str, Sequence[Any]]) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {secret}"),)
        self._random = random.Random(seed)
        self._maker = Maker(self._random, known)
        self._file: bytes = known["data"][0]
        self.calls = 0
        self.answered: Counter[str] = Counter()
        """Calls that were answered, or were waiting for more when their time was over, by method."""
        self.wrong: list[str] = []

    async def run(self, cases: int) -> None:
        """Make `cases` calls, each method in its turn."""
        waiting = iter([METHODS[number % len(METHODS)] for number in range(cases)])
        async with grpc.aio.insecure_channel(self._address) as channel:
            await asyncio.gather(*(self._keep_calling(channel, waiting) for _ in range(TOGETHER)))

    async def _keep_calling(self, channel: Any, waiting: Iterator[MethodDescriptor]) -> None:
        for method in waiting:
            requests = self._requests(method)
            end, details = await self._call(channel, method, requests)
            self.calls += 1
            self.answered[method.name] += end in {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
            if not _may_be(method, end, details):
                self.wrong.append(f"{method.full_name} ended with {end.name}: {details}; {requests!r:.600}")

    def _requests(self, method: MethodDescriptor) -> list[bytes]:
        if method.name == "ImportCodebook" and self._random.random() < 0.2:
            # Chance alone hardly ever names the codebook first and sends its whole file then.
            return [codebooks_pb2.ImportCodebookRequest(name=str(BOOK), data=self._file).SerializeToString()]
        return [self._request(method) for _ in range(self._random.randint(0, 3) if method.client_streaming else 1)]

    def _request(self, method: MethodDescriptor) -> bytes:
        if self._random.random() < 0.25:
            return self._maker.garbage(method.input_type)
        return self._maker.message(method.input_type).SerializeToString()

    async def _call(self, channel: Any, method: MethodDescriptor, requests: list[bytes]) -> tuple[grpc.StatusCode, str]:
        path = f"/{method.containing_service.full_name}/{method.name}"
        kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        asked = _stream(requests) if method.client_streaming else requests[0]
        timeout_s = _WAIT_S if method.server_streaming or method.name in WAITING else 60.0
        call = getattr(channel, kind)(path)(asked, timeout=timeout_s, metadata=self._metadata)
        try:
            if method.server_streaming:
                async for _ in call:
                    pass
            else:
                await call
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        except asyncio.CancelledError:
            if not method.client_streaming or asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            return grpc.StatusCode.INTERNAL, _BROKEN_PIPE
        return grpc.StatusCode.OK, ""


def _may_be(method: MethodDescriptor, end: grpc.StatusCode, details: str) -> bool:
    if end is grpc.StatusCode.UNAVAILABLE:
        return method.name == "PreviewEdit"  # no worker is there
    if end is grpc.StatusCode.INTERNAL:
        return bool(method.client_streaming) and details == _BROKEN_PIPE
    return end in _EXPECTED


async def _stream(requests: list[bytes]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


def known_values(edit_id: str, keys: Sequence[str], file: bytes, epoch: str) -> dict[str, list[Any]]:
    """Return values that mean something to the server.

    Parameters
    ----------
    edit_id
        An edit of `BOOK`.
    keys
        Ids of keys that may be revoked and rotated.
    file
        An export of `BOOK`.
    epoch
        The registry's.
    """
    book, edit = str(BOOK), f"{BOOK}/edits/{edit_id}"
    tenants = ["tenants/default", "tenants/-", "tenants/acme"]
    return {
        "parent": [book, book, "tenants/acme/codebooks/new"],
        "name": [book, book, "tenants/acme/codebooks/new"],
        "CreateCodebookRequest.parent": tenants,
        "ListCodebooksRequest.parent": tenants,
        "ListKeysRequest.parent": tenants,
        "CreateKeyRequest.tenant": ["tenants/default"],
        "GetEditRequest.name": [edit],
        "WatchEditRequest.name": [edit],
        "RetireEditRequest.name": [edit],
        "GetQuotaRequest.name": ["tenants/acme/quota", "tenants/default/quota"],
        "Quota.name": ["tenants/acme/quota"],
        "GetCalibrationRequest.name": ["calibrations/1", "calibrations/-"],
        "RevokeKeyRequest.name": [f"keys/{keys[0]}"],
        "RotateKeyRequest.name": [f"keys/{keys[1]}"],
        "codebook_id": ["facts", "new", "other"],
        "tenant_id": ["acme", "other"],
        "request_id": [f"r{number}" for number in range(1_000)],
        "preset": ["cosine", "horen-paper"],
        "prompt": ["who leads Rome?", f"who leads {MARK}, Rome?"],
        "target": ["Ada", f"{MARK} Bo"],
        "subject": ["Rome", ""],
        "replica_id": ["r1", "r2"],
        "epoch": [epoch, epoch, ""],
        "fingerprint": [FINGERPRINT],
        "model": ["m"],
        "digest": ["0" * 64],
        "known": [book, "tenants/acme/codebooks/new"],
        "applied": [book],
        "probed": [book],
        "codebook": [book],
        "edit": [edit],
        "paths": ["max_entries", "name", "state"],
        "data": [file],
        **_NUMBERS,
    }


_NUMBERS: Final[dict[str, list[Any]]] = {
    "page_size": [0, 1, 100],
    "threshold": [0.9],
    "to_revision": [1, 2, 3],
    "from_revision": [1, 2],
    "after_revision": [0, 1],
    "revision": [0, 1],
    "wait_seconds": [0.0, 0.01],
    "lease_seconds": [0.05],
    "overlap_seconds": [0.0, 60.0],
    "seconds": [1, 60],
    "scope": [1, 2],
    "until": [0, 1],
    "states": [1, 4],
    "validate_only": [False, False, True],
}
"""Numbers that mean something to the server, by the name of the field."""
