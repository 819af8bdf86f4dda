"""Checks of vLLM's own arguments against how clients are authenticated; all before the first request."""

import os
from argparse import Namespace

from horen_vllm.errors import FailedPrecondition
from horen_vllm.loopback import is_loopback
from horen_vllm.serving.settings import Auth, ServingSettings


def check_binding(settings: ServingSettings, args: Namespace) -> None:
    """Refuse a server that others could reach without a credential, or whose two ways to authenticate would clash.

    Parameters
    ----------
    args
        vLLM's own.

    Raises
    ------
    FailedPrecondition
        ``unauthenticated_bind`` or ``api_key_conflict``.
    """
    if settings.auth is Auth.NONE:
        _check_loopback(args)
        return
    if getattr(args, "api_key", None) or os.environ.get("VLLM_API_KEY"):
        message = "HOREN_AUTH=keys and vLLM's own --api-key (or VLLM_API_KEY) exclude each other: leave that one out."
        raise FailedPrecondition(message, code="api_key_conflict")


def _check_loopback(args: Namespace) -> None:
    host = getattr(args, "host", None)
    if getattr(args, "uds", None) or (host is not None and is_loopback(host)):
        return
    message = (
        f"without authentication the server must not listen on {host or 'all interfaces'}: "
        "use --host 127.0.0.1, or set HOREN_AUTH=keys."
    )
    raise FailedPrecondition(message, code="unauthenticated_bind")
