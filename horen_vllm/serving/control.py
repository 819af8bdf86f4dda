"""The API server's client of the control plane: with the replica's key, over the TLS that the settings describe."""

from horen_vllm.control.client import ClientTls, HorenClient
from horen_vllm.serving.settings import ServingSettings


def control_client(address: str, settings: ServingSettings, *, timeout_s: float = 10.0) -> HorenClient:
    """Return a client of the control plane at `address`; raises as `HorenClient`."""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return HorenClient(
        address, timeout_s=timeout_s, api_key=key, api_key_file=settings.api_key_file, tls=_tls(settings)
    )


def _tls(settings: ServingSettings) -> ClientTls | None:
    files = (settings.tls_ca, settings.tls_cert, settings.tls_key)
    if not settings.tls and not any(files) and settings.tls_server_name is None:
        return None
    ca, cert, key = files
    return ClientTls(ca=ca, cert=cert, key=key, server_name=settings.tls_server_name)
