"""``POST /horen/v1/explain``: asks the server the real question and reports how it was routed."""

import json
from contextvars import ContextVar
from typing import Any, Final

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from horen_vllm.errors import HorenError, InvalidArgument
from horen_vllm.serving.explanation import TokenTexts, explanation
from horen_vllm.serving.problem import send_problem
from horen_vllm.serving.requests import parse_body
from horen_vllm.serving.responses import FIELD
from horen_vllm.serving.routes import route_path

PATH: Final = "/horen/v1/explain"
DEFAULT_TOP: Final = 5
MAX_TOP: Final = 50
"""Entries that one answer lists."""

entries_wanted: Final[ContextVar[int]] = ContextVar("horen_entries_wanted", default=0)
"""How many of the nearest entries the request in this context asks for; 0 for every request but ours."""

_COMPLETIONS: Final = "/v1/completions"
_CHAT: Final = "/v1/chat/completions"
_ONE_TOKEN: Final = {"stream": False, "n": 1, "max_tokens": 1, "temperature": 0.0, "return_token_ids": True}
_OF_THE_ANSWER: Final = frozenset(
    {"best_of", "echo", "logprobs", "max_completion_tokens", "min_tokens", "prompt_logprobs", "response_format"}
    | {"stop", "stop_token_ids", "stream_options", "structured_outputs", "top", "top_logprobs"}
)
"""Fields that shape the answer or this report, not the routed prompt."""
_OF_THE_BODY: Final = frozenset(
    {b"content-encoding", b"content-length", b"content-type", b"host", b"transfer-encoding"}
)
"""Headers that describe the bytes that came, not those that are passed on."""


class ExplainRoute:
    """Pure ASGI middleware in front of the codebook middleware.

    The question goes through the whole application again, as the completion or chat request that it stands for:
    so the credential, the template, the span and the decision are those of a real request.

    Parameters
    ----------
    app
        The application behind.
    texts
        From token ids to the text of each.
    """

    def __init__(self, app: Any, texts: TokenTexts) -> None:
        self._app = app
        self._texts = texts

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["method"] != "POST" or route_path(scope) != PATH:
            await self._app(scope, receive, send)
            return
        try:
            response = await self._answer(Request(scope, receive))
        except HorenError as error:
            await send_problem(error, send)
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        body = parse_body(await request.body())
        top, path = _top(body), _asked_path(body)
        answer = await _ask(request, path, real_request(body), top)
        if answer.status_code != httpx.codes.OK:
            return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
        told = answer.json()
        choice = told["choices"][0]
        if FIELD not in choice:
            message = (
                f"{body.get('model')!r} is the clean model, which no edit touches: name a codebook, NAME@CODEBOOK."
            )
            raise InvalidArgument(message, code="codebook_required")
        token_ids = choice.get("prompt_token_ids") or told["prompt_token_ids"]
        content = explanation(choice[FIELD], token_ids, self._texts)
        return JSONResponse({"model": body["model"], "asked": {"path": path, "top": top}, **content})


def real_request(body: dict[str, Any]) -> dict[str, Any]:
    """Return the request whose prompt is to be explained, cut down to one token of answer."""
    kept = {name: value for name, value in body.items() if name not in _OF_THE_ANSWER}
    if isinstance(forced := kept.get("tool_choice"), dict) or forced == "required":
        # A forced call has to be complete JSON, which one token is not; the prompt does not depend on it.
        kept["tool_choice"] = "none"
    return {**kept, **_ONE_TOKEN}


async def _ask(request: Request, path: str, body: dict[str, Any], top: int) -> httpx.Response:
    # Through the whole application: vLLM's own --api-key guards /v1 and not our path.
    client = (request.client.host, request.client.port) if request.client else ("", 0)
    transport = httpx.ASGITransport(request.app, root_path=request.scope.get("root_path", ""), client=client)
    headers = [(name, value) for name, value in request.headers.raw if name not in _OF_THE_BODY]
    headers.append((b"content-type", b"application/json"))
    token = entries_wanted.set(top)
    try:
        asked = httpx.Request("POST", f"http://localhost{path}", headers=headers, content=json.dumps(body).encode())
        answer = await transport.handle_async_request(asked)
        await answer.aread()
        return answer
    finally:
        entries_wanted.reset(token)


def _top(body: dict[str, Any]) -> int:
    top = body.get("top", DEFAULT_TOP)
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= MAX_TOP:
        raise InvalidArgument(f"top must be a whole number from 1 to {MAX_TOP}.", code="invalid_explain")
    return top


def _asked_path(body: dict[str, Any]) -> str:
    if ("prompt" in body) == ("messages" in body):
        raise InvalidArgument("give either prompt or messages.", code="invalid_explain")
    prompt = body.get("prompt", "")
    if isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt):
        raise InvalidArgument("prompt must be one text or one list of token ids.", code="invalid_explain")
    return _CHAT if "messages" in body else _COMPLETIONS
