"""Which routes a server with API keys offers, and to whom.

By exclusion: what stands in no list is refused, so that a route that a later vLLM adds is closed until somebody has
looked at it. Routes behind which the tenant would not be kept apart are left out on purpose: stored responses
(``/v1/responses``), raw tokens and aborts by id (``/inference/v1``), forms without a body of our own, WebSockets, and
everything that changes the server.
"""

from enum import Enum
from typing import Any, Final


class Access(Enum):
    """Who may use a route."""

    ANYONE = "anyone"
    """Without a key; with one, it must be valid."""
    TENANT = "tenant"
    """With a key of any tenant."""
    ADMIN = "admin"
    """With a key of scope admin."""


_ROUTES: Final = {
    ("GET", "/health"): Access.ANYONE,
    ("GET", "/ping"): Access.ANYONE,
    ("POST", "/ping"): Access.ANYONE,
    ("GET", "/version"): Access.ANYONE,
    ("GET", "/horen/v1/status"): Access.ANYONE,
    ("GET", "/v1/models"): Access.TENANT,
    ("POST", "/v1/completions"): Access.TENANT,
    ("POST", "/v1/chat/completions"): Access.TENANT,
    ("POST", "/tokenize"): Access.TENANT,
    ("POST", "/detokenize"): Access.TENANT,
    ("POST", "/horen/v1/explain"): Access.TENANT,
    ("GET", "/metrics"): Access.ADMIN,
    ("GET", "/load"): Access.ADMIN,
}


def access_to(method: str, path: str) -> Access | None:
    """Return who may use a route of a server with API keys; None: nobody."""
    return _ROUTES.get((method, path.removesuffix("/") if path == "/metrics/" else path))


def route_path(scope: dict[str, Any]) -> str:
    """Return the path that routes are matched by: without the prefix that ``--root-path`` names."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    inside = root and (path == root or path.startswith(f"{root}/"))
    return path[len(root) :] if inside else path
