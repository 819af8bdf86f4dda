"""Somebody has looked at every HTTP route of this vLLM: those that are offered with API keys, and all others."""

from argparse import Namespace

import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Route, WebSocketRoute

from horen_vllm.serving.routes import access_to

OFFERED = {
    *{("GET", "/health"), ("GET", "/ping"), ("POST", "/ping"), ("GET", "/version")},
    *{("GET", "/v1/models"), ("POST", "/v1/completions"), ("POST", "/v1/chat/completions")},
    *{("POST", "/tokenize"), ("POST", "/detokenize"), ("GET", "/metrics"), ("GET", "/load")},
}
READS_OF_THE_SERVER = {
    "/openapi.json",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    "/kv_event_sources",
    "/tokenizer_info",
}
STORED_BY_ID = {"/v1/responses", "/v1/responses/{response_id}", "/v1/responses/{response_id}/cancel"}
RAW_TOKENS = {"/inference/v1/generate", "/inference/v1/abort_requests"}
NO_SALT = {"/v1/messages", "/v1/messages/count_tokens", "/v1/systemone", "/generative_scoring", "/invocations"}
NOT_NEEDED = {
    "/v1/chat/completions/batch",
    *(f"/v1/{name}/render" for name in ("chat/completions", "messages", "completions", "responses")),
    *(f"/v1/{name}/derender" for name in ("chat/completions", "completions")),
}
CHANGES_THE_SERVER = {"/scale_elastic_ep", "/is_scaling_elastic_ep"}
REFUSED = READS_OF_THE_SERVER | STORED_BY_ID | RAW_TOKENS | NO_SALT | NOT_NEEDED | CHANGES_THE_SERVER


@pytest.fixture(scope="module")
def vllm_app() -> FastAPI:
    """The routes of a server for text generation, without an engine."""
    from vllm.entrypoints.launchers.api_server.routers import register_api_routers

    app = FastAPI()
    app.state.args = Namespace(enable_tokenizer_info_endpoint=True)
    register_api_routers(Namespace(), app, ("generate",), None)
    return app


def test_every_route_of_vllm_is_offered_or_refused_on_purpose(vllm_app: FastAPI) -> None:
    found, offered = set(), set()
    for route in vllm_app.routes:
        assert isinstance(route, Route | Mount | WebSocketRoute)
        for method in getattr(route, "methods", None) or ():
            if method == "HEAD":
                continue
            if access_to(method, route.path) is None:
                found.add(route.path)
            else:
                offered.add((method, route.path))
    assert found == REFUSED
    assert offered == OFFERED
