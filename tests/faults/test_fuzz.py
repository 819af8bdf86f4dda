"""Random bytes and random messages at every method of every service: refused or answered, never a defect."""

import asyncio
import io
import json
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import structlog
from google.protobuf.descriptor import MethodDescriptor

from horen_vllm.control._pb.horen.v1 import admin_pb2, codebooks_pb2, edits_pb2, replicas_pb2
from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlAuth, ControlSettings
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.keys import new_key
from horen_vllm.registry.models import EditSpec, KeyScope
from horen_vllm.registry.store import SqlRegistry
from tests.faults.checker import Evidence, RegistryState
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
EXPECTED: Final = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
"""What a call with an admin key may end with; a watch, or a sync that waits, ends by its deadline."""


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that this process logs, down to what is off by default."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=repr)],
        logger_factory=structlog.PrintLoggerFactory(written),
        cache_logger_on_first_use=False,
    )
    yield written
    structlog.reset_defaults()
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def secret(registry: SqlRegistry) -> str:
    """Secret of an admin key."""
    made = new_key()
    registry.add_key(made.key_id, made.digest, tenant=None, scope=KeyScope.ADMIN, lifetime_s=None)
    return made.secret


@pytest.fixture
def server(registry: SqlRegistry) -> Iterator[ControlServer]:
    settings = ControlSettings(
        model="m", fingerprint=FINGERPRINT, site="s", port=0, poll_s=0.02, grace_s=0.1, auth=ControlAuth.KEYS
    )
    with serve(registry, settings) as running:
        yield running


_KNOWN_NUMBERS: Final[dict[str, list[Any]]] = {
    "page_size": [0, 1, 100],
    "threshold": [0.9],
    "to_revision": [1, 2, 3],
    "from_revision": [1, 2],
    "after_revision": [0, 1],
    "revision": [0, 1],
    "wait_seconds": [0.0, 0.01],
    "lease_seconds": [0.05],
    "seconds": [0, 60],
    "scope": [1, 2],
    "until": [0, 1],
    "states": [1, 4],
    "validate_only": [False, False, True],
}
"""Numbers that mean something to the server, by the name of the field."""


class Fuzz:
    """Calls with random requests.

    Parameters
    ----------
    address, secret
        The server, and a key that opens all of it.
    maker
        Makes the requests.
    """

    def __init__(self, address: str, secret: str, maker: Maker) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {secret}"),)
        self._maker = maker
        self._random = maker.random
        self.ends: Counter[grpc.StatusCode] = Counter()
        self.reached: Counter[str] = Counter()
        """Calls that were answered, by method."""
        self.wrong: list[str] = []

    async def run(self, cases: int) -> None:
        """Make `cases` calls, each method in its turn."""
        waiting = iter([METHODS[number % len(METHODS)] for number in range(cases)])
        async with grpc.aio.insecure_channel(self._address) as channel:
            await asyncio.gather(*(self._keep_calling(channel, waiting) for _ in range(TOGETHER)))

    async def _keep_calling(self, channel: Any, waiting: Iterator[MethodDescriptor]) -> None:
        for method in waiting:
            requests = [
                self._request(method) for _ in range(self._random.randint(0, 3) if method.client_streaming else 1)
            ]
            end, details = await self._call(channel, method, requests)
            self.ends[end] += 1
            self.reached[method.full_name] += end is grpc.StatusCode.OK
            if end not in EXPECTED:
                self.wrong.append(f"{method.full_name} ended with {end.name}: {details}; {requests!r:.600}")

    def _request(self, method: MethodDescriptor) -> bytes:
        if self._random.random() < 0.25:
            return self._maker.garbage(method.input_type)
        return self._maker.message(method.input_type).SerializeToString()

    async def _call(self, channel: Any, method: MethodDescriptor, requests: list[bytes]) -> tuple[grpc.StatusCode, str]:
        path = f"/{method.containing_service.full_name}/{method.name}"
        kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        asked = _stream(requests) if method.client_streaming else requests[0]
        waits = method.server_streaming or method.name == "Sync"
        call = getattr(channel, kind)(path)(asked, timeout=0.1 if waits else 30.0, metadata=self._metadata)
        try:
            if method.server_streaming:
                async for _ in call:
                    pass
            else:
                await call
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return grpc.StatusCode.OK, ""


async def _stream(requests: list[bytes]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


@pytest.fixture
def fuzz(registry: SqlRegistry, server: ControlServer, secret: str, log: io.StringIO) -> Callable[[int, int], None]:
    """Makes calls and checks what came of them."""

    def run(cases: int, seed: int) -> None:
        before = registry.submit(BOOK, EditSpec(prompt="who leads Rome?", target="Ada"))
        fuzz = Fuzz(server.address, secret, Maker(random.Random(seed), _known(before.edit_id)))
        asyncio.run(fuzz.run(cases))
        assert fuzz.wrong == []
        assert sum(fuzz.ends.values()) == cases
        _check_log(log.getvalue(), secret)
        _check_health(server, registry, secret)

    return run


def _known(edit_id: str) -> dict[str, list[Any]]:
    book, edit = str(BOOK), f"{BOOK}/edits/{edit_id}"
    tenants = ["tenants/default", "tenants/-", "tenants/acme"]
    return {
        "parent": [book, book, "tenants/acme/codebooks/new"],
        "name": [book, book, "tenants/acme/codebooks/new"],
        "CreateCodebookRequest.parent": tenants,
        "ListCodebooksRequest.parent": tenants,
        "ListKeysRequest.parent": tenants,
        "CreateKeyRequest.parent": tenants,
        "GetEditRequest.name": [edit],
        "WatchEditRequest.name": [edit],
        "RetireEditRequest.name": [edit],
        "GetQuotaRequest.name": ["tenants/acme/quota", "tenants/default/quota"],
        "Quota.name": ["tenants/acme/quota"],
        "GetCalibrationRequest.name": ["calibrations/1", "calibrations/-"],
        "RevokeKeyRequest.name": ["tenants/acme/keys/k0", "keys/k0"],
        "codebook_id": ["facts", "new", "other"],
        "tenant_id": ["acme", "other"],
        "request_id": [f"r{number}" for number in range(300)],
        "preset": ["cosine", "horen-paper"],
        "prompt": ["who leads Rome?", f"who leads {MARK}, Rome?"],
        "target": ["Ada", f"{MARK} Bo"],
        "subject": ["Rome", ""],
        "replica_id": ["r1", "r2"],
        "fingerprint": [FINGERPRINT],
        "model": ["m"],
        "digest": ["0" * 64],
        "known": [book, "tenants/acme/codebooks/new"],
        "applied": [book],
        "probed": [book],
        "codebook": [book],
        "edit": [edit],
        "paths": ["max_entries", "name", "state"],
        **_KNOWN_NUMBERS,
    }


def _check_log(text: str, secret: str) -> None:
    assert '"method"' in text or "method" in text
    for line in text.splitlines():
        for hidden in (secret, MARK, json.dumps(MARK)[1:-1]):
            assert hidden not in line, line[:500]
    assert "unexpected_error" not in text


def _check_health(server: ControlServer, registry: SqlRegistry, secret: str) -> None:
    """Check that the server does its work for a tenant that was never named, and the registry is in order."""
    assert server.wait(0.0) is False
    fresh = TenantId("fresh-tenant")
    with HorenClient(server.address, timeout_s=10.0, api_key=secret) as client:
        client.create_tenant(fresh)
        book = client.create_codebook(CodebookName(fresh, "facts"), preset="cosine", threshold=0.9)
        edit = client.submit_edit(book.name, EditSpec(prompt="who leads Oslo?", target="Bo"))
        assert client.get_edit(edit).edit_id == edit.edit_id
    for record in registry.list_codebooks():
        assert list(RegistryState(Evidence((), registry, record.name, Path("none"))).complaints()) == []


def test_fuzz(fuzz: Callable[[int, int], None]) -> None:
    fuzz(2_500, 1)


@pytest.mark.matrix
def test_fuzz_for_long(fuzz: Callable[[int, int], None]) -> None:
    fuzz(20_000, 2)
