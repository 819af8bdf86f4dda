"""The control plane's server: starts, listens, stops gracefully."""

import asyncio
import contextlib
import errno
import os
import socket
import threading
from concurrent.futures import Future
from typing import Any, Final, Self

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from horen_vllm.artifacts.opening import open_artifacts
from horen_vllm.control._pb.horen.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    codebooks_pb2,
    codebooks_pb2_grpc,
    edits_pb2,
    edits_pb2_grpc,
    replicas_pb2,
    replicas_pb2_grpc,
)
from horen_vllm.control.backend import Backend
from horen_vllm.control.book_files import BookFiles
from horen_vllm.control.expiry import retire_expired
from horen_vllm.control.gate import Gate, KeyGate, OpenGate
from horen_vllm.control.interceptor import CallInterceptor
from horen_vllm.control.journal import Journal
from horen_vllm.control.metrics import ControlMetrics
from horen_vllm.control.pulse import Pulse
from horen_vllm.control.services.admin import AdminService
from horen_vllm.control.services.codebooks import CodebookService
from horen_vllm.control.services.edits import EditService
from horen_vllm.control.services.replicas import ReplicaService
from horen_vllm.control.settings import MAX_MESSAGE_BYTES, ControlAuth, ControlSettings, ServerTls
from horen_vllm.control.tls import ServerCertificates
from horen_vllm.control.views import Views
from horen_vllm.errors import FailedPrecondition
from horen_vllm.keyring import Keyring
from horen_vllm.loopback import is_loopback
from horen_vllm.registry.ports import Registry

SERVICES: Final = tuple(
    descriptor.full_name
    for file in (edits_pb2, codebooks_pb2, replicas_pb2, admin_pb2)
    for descriptor in file.DESCRIPTOR.services_by_name.values()
)
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Without this a second server would share the port silently.
    ("grpc.so_reuseport", 0),
)


class ControlServer:
    """A running control plane: grpc.aio on its own thread, blocking registry calls on the backend's.

    Parameters
    ----------
    registry
        Where everything is stored; stays the caller's to close, after `stop`.
    settings
        The base model, the address, and who is let in.
    metrics
        Where calls are counted, and what the registry holds.

    Examples
    --------
    ::

        with serve(registry, settings) as server:
            server.wait()
    """

    def __init__(self, registry: Registry, settings: ControlSettings, metrics: ControlMetrics | None = None) -> None:
        self._registry = registry
        self._settings = settings
        self._metrics = metrics or ControlMetrics()
        self._certificates: ServerCertificates | None = None
        self._port = 0
        self._started: Future[int] = Future()
        self._stop_asked: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="horen-control", daemon=True)

    @property
    def port(self) -> int:
        """Port that the server listens on."""
        return self._port

    @property
    def address(self) -> str:
        """What a client dials: ``HOST:PORT``."""
        return _address(self._settings.host, self._port)

    def start(self) -> None:
        """Listen, and return once calls are answered.

        Raises
        ------
        FailedPrecondition
            ``insecure_bind`` for an address beyond loopback without keys and TLS, ``invalid_tls``, ``port_taken``,
            ``bind_failed``, or ``schema_out_of_date``.
        """
        check_reach(self._settings.host, self._settings.auth, self._settings.tls)
        if self._settings.tls is not None:
            self._certificates = ServerCertificates(self._settings.tls)
        self._registry.check_schema()
        self._thread.start()
        self._port = self._started.result()

    def stop(self) -> None:
        """Refuse new calls, end the watches, let the other calls finish, and return; twice is harmless."""
        if self._loop is not None and self._stop_asked is not None:
            # The loop is closed when the server has stopped already.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop_asked.set)
        self.wait()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return True once the server has stopped, False after `timeout_s` seconds (None: never)."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:
            if self._started.done():
                raise
            self._started.set_exception(exc)

    async def _serve(self) -> None:
        self._loop, self._stop_asked = asyncio.get_running_loop(), asyncio.Event()
        backend, gate = Backend(self._settings), self._gate()
        server = grpc.aio.server(interceptors=[CallInterceptor(gate, Journal(self._metrics))], options=_OPTIONS)
        states = self._register(server, backend)
        pulse = self._pulse(states)
        running: list[asyncio.Task[None]] = []
        try:
            port = _bind(server, self._settings, self._certificates)
            await pulse.look()
            await server.start()
            running.append(asyncio.create_task(pulse.run()))
            expiry = retire_expired(self._registry, backend, self._settings.expiry_s)
            running.append(asyncio.create_task(expiry))
            self._started.set_result(port)
            await self._stop_asked.wait()
            await states.enter_graceful_shutdown()
            backend.stop_polling()
        finally:
            await server.stop(self._settings.grace_s)
            for task in running:
                task.cancel()
            pulse.close()
            gate.close()
            backend.close()

    def _gate(self) -> Gate:
        if self._settings.auth is ControlAuth.NONE:
            return OpenGate()
        return KeyGate(Keyring(self._registry.resolve_key, ttl_s=self._settings.key_cache_s))

    def _pulse(self, states: Any) -> Pulse:
        return Pulse(
            registry=self._registry,
            states=states,
            services=SERVICES,
            metrics=self._metrics,
            period_s=self._settings.health_s,
        )

    def _files(self) -> BookFiles:
        location = self._settings.artifacts
        return BookFiles(self._registry, None if location is None else open_artifacts(location))

    def _register(self, server: Any, backend: Backend) -> Any:
        views = Views(self._registry)
        edits_pb2_grpc.add_EditServiceServicer_to_server(  # type: ignore[no-untyped-call]
            EditService(self._registry, views, backend, self._settings), server
        )
        codebooks_pb2_grpc.add_CodebookServiceServicer_to_server(  # type: ignore[no-untyped-call]
            CodebookService(self._registry, views, backend, self._settings, self._files()), server
        )
        replicas_pb2_grpc.add_ReplicaServiceServicer_to_server(  # type: ignore[no-untyped-call]
            ReplicaService(self._registry, backend), server
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(  # type: ignore[no-untyped-call]
            AdminService(self._registry, backend), server
        )
        states = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(states, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return states


def serve(registry: Registry, settings: ControlSettings, metrics: ControlMetrics | None = None) -> ControlServer:
    """Start a control plane and return it running; raises as `ControlServer.start`."""
    server = ControlServer(registry, settings, metrics)
    server.start()
    return server


def check_reach(host: str, auth: ControlAuth, tls: ServerTls | None) -> None:
    """Refuse an address that other machines can reach, unless clients must show keys and nobody can read them.

    Raises
    ------
    FailedPrecondition
        ``insecure_bind``.
    """
    if is_loopback(host) or (auth is ControlAuth.KEYS and tls is not None):
        return
    message = (
        f"beyond this machine the control plane needs API keys and TLS, so it does not listen on {host!r}: "
        "give --auth keys, --tls-cert and --tls-key, or listen on 127.0.0.1."
    )
    raise FailedPrecondition(message, code="insecure_bind")


def _bind(server: Any, settings: ControlSettings, certificates: ServerCertificates | None) -> int:
    address = _address(settings.host, settings.port)
    try:
        if certificates is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, certificates.credentials()))
    except RuntimeError as exc:
        raise _bind_error(settings.host, settings.port) from exc


def _bind_error(host: str, port: int) -> FailedPrecondition:
    # gRPC does not say why; a plain socket does.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        reason = _probe_error(probe, host, port)
    if reason == errno.EADDRINUSE:
        message = f"port {port} on {host} is taken: stop what listens there or choose another port."
        return FailedPrecondition(message, code="port_taken")
    message = f"cannot listen on {host} port {port}: {os.strerror(reason) if reason else 'gRPC refused it'}."
    return FailedPrecondition(message, code="bind_failed")


def _probe_error(probe: socket.socket, host: str, port: int) -> int:
    try:
        probe.bind((host, port))
    except OSError as exc:
        return exc.errno or 0
    return 0


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
