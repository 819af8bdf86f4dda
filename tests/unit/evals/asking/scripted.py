"""A server that answers as OpenAI's API does, and misbehaves as it is told."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from horen_vllm.evals.asking.calling import Patience
from horen_vllm.evals.records import Message, Protocol, Question, QuestionKind

Reply = Callable[["Handler", dict[str, Any]], None]
QUICK = Patience(timeout_s=30.0, attempts=4, first_wait_s=0.001, longest_wait_s=0.01)


@dataclass
class Call:
    """One request, as the server saw it."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class Script:
    """What the server does with the next requests: `replies` in turn, then `otherwise`."""

    replies: list[Reply] = field(default_factory=list)
    otherwise: Reply = lambda handler, body: handler.answer(completion(body))
    calls: list[Call] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, call: Call) -> Reply:
        with self.lock:
            self.calls.append(call)
            return self.replies.pop(0) if self.replies else self.otherwise


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.script.next(Call(self.path, body, dict(self.headers)))(self, body)

    def do_GET(self) -> None:
        self.script.next(Call(self.path, {}, dict(self.headers)))(self, {})

    def answer(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(body).encode(), status, headers)

    def send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def drop(self) -> None:
        """Close the connection in the middle of an answer."""
        self.send_response(200)
        self.send_header("content-length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [{"text": "half')
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Keep quiet."""


def completion(body: dict[str, Any], **choice: Any) -> dict[str, Any]:
    """Return a server's answer: the prompt backwards, as one token a character."""
    said = (body.get("prompt") or body["messages"][-1]["content"])[::-1]
    content = {"message": {"content": said}} if "messages" in body else {"text": said}
    ids = {"token_ids": [ord(char) for char in said]}
    prompt = {"prompt_token_ids": [1, 2, 3]}
    shape = ids if "messages" in body else ids | prompt
    return {"choices": [{**content, **shape, "finish_reason": "stop", **choice}]} | (
        prompt if "messages" in body else {}
    )


def status(code: int, message: str = "no", slug: Any = None, **headers: str) -> Reply:
    """Return a reply that is an error of OpenAI's form."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, _body: handler.answer({"error": {"message": message, "code": slug}}, code, named)


def reply(body: Any) -> Reply:
    return lambda handler, _body: handler.answer(body)


def drop(handler: Handler, _body: dict[str, Any]) -> None:
    handler.drop()


def question(text: str = "abc", *, chat: bool = False, model: str = "demo", number: int = 0) -> Question:
    return Question(
        question_id=f"q{number}",
        arm="base",
        model=model,
        checkpoint=0,
        protocol=Protocol.PAPER,
        kind=QuestionKind.EDIT,
        prompt=None if chat else text,
        messages=(Message(role="user", content=text),) if chat else (),
        max_tokens=5,
    )
