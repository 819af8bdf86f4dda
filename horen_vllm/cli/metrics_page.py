"""A page for Prometheus, beside whatever a process does."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from horen_vllm.cli.ports import LOOPBACK, claim_port


@contextmanager
def metrics_page(metrics: CollectorRegistry, port: int | None, host: str = LOOPBACK) -> Iterator[None]:
    """Serve `metrics` at ``http://HOST:PORT/metrics`` for the time of the block; not at all when `port` is None.

    Raises
    ------
    FailedPrecondition
        ``port_taken`` or ``bind_failed``.
    """
    if port is None:
        yield
        return
    server, thread = start_http_server(claim_port(port, "--metrics-port", host), addr=host, registry=metrics)
    structlog.get_logger().info("metrics are served", url=f"http://{host}:{server.server_port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
