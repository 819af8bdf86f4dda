"""Authentication: every connection gets its tenant from its credential, or is turned away."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from horen_vllm.errors import FailedPrecondition, HorenError, PermissionDenied, Unauthenticated
from horen_vllm.ids import DEFAULT_TENANT, TenantId
from horen_vllm.keyring import Keyring
from horen_vllm.registry.models import KeyRecord, KeyScope
from horen_vllm.serving.control import control_client
from horen_vllm.serving.isolation import isolated_body, isolated_headers
from horen_vllm.serving.problem import send_problem
from horen_vllm.serving.routes import Access, access_to, route_path
from horen_vllm.serving.settings import Auth, ServingSettings, ShareCache
from horen_vllm.serving.tenant import acting_for

_AUTHORIZATION: Final = b"authorization"
_BEARER: Final = b"bearer"
_LOOKUP_TIMEOUT_S: Final = 3.0
_POLICY_VIOLATION: Final = 1008
"""Code with which a WebSocket is closed; before it is accepted, the client sees HTTP 403."""


class OneTenant:
    """ASGI middleware of a server without authentication: every request is the default tenant's.

    Parameters
    ----------
    app
        The application behind.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one connection."""
        with acting_for(DEFAULT_TENANT):
            await self._app(scope, receive, send)


class KeysOnly:
    """ASGI middleware of a server with API keys: outermost of ours, so that nothing is read before the key is.

    Parameters
    ----------
    app
        The application behind; it is reached on the routes of `routes` only.
    keyring
        Tells whose key it is.
    """

    def __init__(self, app: Any, keyring: Keyring) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one connection."""
        if scope["type"] == "http":
            await self._on_http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})

    async def _on_http(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        method, path = str(scope["method"]), route_path(scope)
        access = access_to(method, path)
        try:
            key = await self._key(scope, access)
            _check_access(key, access, f"{method} {path}")
        except HorenError as error:
            await send_problem(error, send)
            return
        tenant = key.tenant if key else None
        if tenant is not None:
            scope = {**scope, "headers": isolated_headers(scope["headers"], tenant)}
        with acting_for(tenant):
            await self._app(scope, receive, send)

    async def _key(self, scope: dict[str, Any], access: Access | None) -> KeyRecord | None:
        """Return the request's key; None for a request without one to a route that needs none."""
        given = [bytes(value) for name, value in scope["headers"] if name == _AUTHORIZATION]
        if not given and access is Access.ANYONE:
            return None
        # Of two credentials the application behind might read the other one.
        scheme, _, secret = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() != _BEARER:
            raise invalid_key()
        key = await self._keyring.find(secret.strip())
        if key is None:
            raise invalid_key()
        return key


def invalid_key() -> Unauthenticated:
    """Return the one refusal of all requests without a valid key."""
    message = "this server needs a valid API key: send it as 'Authorization: Bearer KEY'."
    return Unauthenticated(message, code="invalid_api_key")


def _check_access(key: KeyRecord | None, access: Access | None, route: str) -> None:
    if access is None:
        raise PermissionDenied(f"{route} is not offered by a server with API keys.", code="route_not_offered")
    if key is None or access is Access.ANYONE:
        return
    opens = key.scope is KeyScope.ADMIN if access is Access.ADMIN else key.tenant is not None
    if not opens:
        needed = "a key of scope admin" if access is Access.ADMIN else "a tenant's key"
        raise PermissionDenied(f"{route} needs {needed}.", code="key_scope")


def add_authentication(app: Any, settings: ServingSettings) -> None:
    """Put the authentication that the settings ask for around an application; call it after all other middleware.

    Raises
    ------
    FailedPrecondition
        ``keys_need_control``; or as `control_client`.
    """
    if settings.auth is Auth.NONE:
        app.add_middleware(OneTenant)
        return
    if settings.control is None:
        message = "HOREN_AUTH=keys needs HOREN_CONTROL: the control plane knows the keys."
        raise FailedPrecondition(message, code="keys_need_control")
    client = control_client(settings.control, settings, timeout_s=_LOOKUP_TIMEOUT_S)
    app.add_middleware(KeysOnly, keyring=Keyring(client.resolve_key, ttl_s=settings.key_cache_s))


def isolation_of(settings: ServingSettings) -> Callable[[dict[str, Any], TenantId], dict[str, Any]] | None:
    """Return what `CodebookMiddleware` needs to keep tenants apart; None where there is one only."""
    if settings.auth is Auth.NONE:
        return None
    secret = settings.cache_secret.get_secret_value().encode()
    return partial(isolated_body, salt_secret=secret if settings.share_cache is ShareCache.TENANT else None)
