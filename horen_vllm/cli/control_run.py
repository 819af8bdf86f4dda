"""A control plane from its options: checked, served, and stopped by a signal."""

from dataclasses import dataclass
from pathlib import Path

import structlog

from horen_vllm.cli.interrupts import stop_on_signals
from horen_vllm.cli.logs import configure_logs
from horen_vllm.cli.metrics_page import metrics_page
from horen_vllm.cli.model_folder import ModelFolder
from horen_vllm.control.metrics import ControlMetrics
from horen_vllm.control.server import check_reach, serve
from horen_vllm.control.settings import ControlAuth, ControlSettings, ServerTls
from horen_vllm.errors import FailedPrecondition
from horen_vllm.fingerprint import model_fingerprint
from horen_vllm.registry.store import SqlRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlOptions:
    """What ``horen control`` was told; the command's help says what each means."""

    folder: ModelFolder
    database: str
    artifacts: str | None
    host: str
    port: int
    auth: ControlAuth
    key_cache_s: float
    tls_cert: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    metrics_port: int | None
    metrics_host: str


def run_control(options: ControlOptions) -> None:
    """Serve until SIGINT or SIGTERM."""
    configure_logs()
    tls = _tls(options)
    # Now, since reading the model takes a while.
    check_reach(options.host, options.auth, tls)
    settings = _settings(options, tls)
    registry, metrics = SqlRegistry(options.database), ControlMetrics()
    try:
        with (
            stop_on_signals() as stop,
            serve(registry, settings, metrics) as server,
            metrics_page(metrics.registry, options.metrics_port, options.metrics_host),
        ):
            structlog.get_logger().info(
                "control plane serves",
                address=server.address,
                model=settings.model,
                auth=settings.auth.value,
                tls=settings.tls is not None,
                client_certificates=options.tls_client_ca is not None,
            )
            stop.wait()
    finally:
        registry.close()


def _settings(options: ControlOptions, tls: ServerTls | None) -> ControlSettings:
    return ControlSettings(
        model=options.folder.name,
        fingerprint=model_fingerprint(options.folder.path, options.folder.site),
        site=options.folder.site,
        artifacts=options.artifacts,
        host=options.host,
        port=options.port,
        auth=options.auth,
        tls=tls,
        key_cache_s=options.key_cache_s,
    )


def _tls(options: ControlOptions) -> ServerTls | None:
    if options.tls_cert is None and options.tls_key is None and options.tls_client_ca is None:
        return None
    if options.tls_cert is None or options.tls_key is None:
        message = "TLS needs a certificate and its key: give --tls-cert and --tls-key."
        raise FailedPrecondition(message, code="invalid_tls")
    return ServerTls(cert=options.tls_cert, key=options.tls_key, client_ca=options.tls_client_ca)
