"""Which routes a server with API keys offers, and how paths are read."""

import pytest

from horen_vllm.serving.routes import Access, access_to, route_path

OPEN = {("GET", "/health"), ("GET", "/ping"), ("POST", "/ping"), ("GET", "/version")}
TENANTS = {
    *{("GET", "/v1/models"), ("POST", "/v1/completions"), ("POST", "/v1/chat/completions")},
    *{("POST", "/tokenize"), ("POST", "/detokenize")},
}
ADMINS = {("GET", "/metrics"), ("GET", "/load")}
OURS = {("GET", "/horen/v1/status"): Access.ANYONE, ("POST", "/horen/v1/explain"): Access.TENANT}


def test_the_table_says_who_may() -> None:
    assert {access_to(*route) for route in OPEN} == {Access.ANYONE}
    assert {access_to(*route) for route in TENANTS} == {Access.TENANT}
    assert {access_to(*route) for route in ADMINS} == {Access.ADMIN}
    assert {route: access_to(*route) for route in OURS} == OURS
    assert access_to("GET", "/metrics/") is Access.ADMIN


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/completions"),
        ("HEAD", "/v1/models"),
        ("OPTIONS", "/v1/completions"),
        ("POST", "/v1/completions/"),
        ("POST", "//v1/completions"),
        ("POST", "/v1/./completions"),
        ("POST", "/V1/completions"),
        ("post", "/v1/completions"),
        ("GET", "/metrics//"),
        ("GET", "/metrics/x"),
        ("GET", "/metricsx"),
        ("GET", ""),
        ("GET", "/v1/responses/resp_1"),
    ],
)
def test_no_other_spelling_is_a_route(method: str, path: str) -> None:
    assert access_to(method, path) is None


@pytest.mark.parametrize(
    ("path", "root", "inside"),
    [
        ("/v1/models", "", "/v1/models"),
        ("/proxy/v1/models", "/proxy", "/v1/models"),
        ("/v1/models", "/proxy", "/v1/models"),
        ("/proxyv1/models", "/proxy", "/proxyv1/models"),
        ("/proxy", "/proxy", ""),
        ("/proxy/proxy/v1/models", "/proxy", "/proxy/v1/models"),
    ],
)
def test_paths_are_read_as_the_router_reads_them(path: str, root: str, inside: str) -> None:
    from starlette._utils import get_route_path

    scope = {"type": "http", "path": path, "root_path": root}
    assert route_path(scope) == inside == get_route_path(scope)
