"""Is it up? One look each at a control plane and a server."""

import ssl
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from horen_vllm.control.client import ClientTls

_TIMEOUT_S: Final = 2.0


def control_serving(address: str, tls: "ClientTls | None" = None) -> bool:
    """Return whether the control plane's health service says SERVING; FailedPrecondition ``invalid_tls``."""
    # Only commands that look at a running system pay for these imports.
    import grpc  # noqa: PLC0415
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    with (
        grpc.insecure_channel(address)
        if tls is None
        else grpc.secure_channel(address, tls.credentials(), options=tls.options())
    ) as channel:
        request = health_pb2.HealthCheckRequest(service="")
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def server_status(base_url: str) -> dict[str, Any] | None:
    """Return what ``GET /horen/v1/status`` says, or None when the server does not answer or is not healthy."""
    import httpx  # noqa: PLC0415

    try:
        # Asked ten times a second while it starts: reading the system's certificates would cost more than all the rest.
        no_certificates = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with httpx.Client(base_url=base_url, timeout=_TIMEOUT_S, trust_env=False, verify=no_certificates) as client:
            health, status = client.get("/health"), client.get("/horen/v1/status")
            if health.is_success and status.is_success:
                answer: dict[str, Any] = status.json()
                return answer
    except (httpx.HTTPError, ValueError):
        return None
    return None


def server_serving(base_url: str) -> bool:
    """Return whether the server is healthy and hears its control plane."""
    status = server_status(base_url)
    return status is not None and not status.get("stale", True)
