"""``horen explain`` against an HTTP server that answers as ``/horen/v1/explain`` does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from horen_vllm.cli.app import app
from horen_vllm.cli.layout import Endpoints, HomeLayout

from .conftest import Run

TOLD: dict[str, Any] = {
    "model": "base@facts",
    "asked": {"path": "/v1/completions", "top": 5},
    "codebook": "facts",
    "revision": 3,
    "threshold": 0.95,
    "decision": {"fired": True, "edit_id": "e1", "score": 0.97, "runner_up": "e2", "runner_up_score": 0.9},
    "nearest": [
        {"edit_id": "e1", "score": 0.97, "margin": 0.02, "fires": True, "reason": "fires: best score"},
        {"edit_id": "e2", "score": 0.9, "margin": -0.05, "fires": False, "reason": "below the threshold by 0.0500"},
    ],
    "query_span": [1, 9],
    "query_window": [7, 9],
    "prompt_tokens": 9,
    "tokens": [
        {"position": 1, "id": 5, "text": "[b]Who", "in_window": False},
        {"position": 6, "id": 6, "text": " runs", "in_window": False},
        {"position": 7, "id": 7, "text": " Ac", "in_window": True},
        {"position": 8, "id": 8, "text": "me\n", "in_window": True},
    ],
}


class Server(ThreadingHTTPServer):
    """Keeps what it is asked and answers what it is told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, Any, str | None]] = []
        self.answer: tuple[int, bytes] = (200, json.dumps(TOLD).encode())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, body, self.headers["authorization"]))
        status, content = self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("HOREN_API_KEY", raising=False)
    with Server() as made:
        monkeypatch.setenv("HOREN_SERVER", made.url)
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_the_table_says_what_fires_and_which_tokens_were_looked_at(run: Run, server: Server) -> None:
    made = run("explain", "--model", "base@facts", "Who runs Acme")
    assert made.exit_code == 0, made.output
    assert server.asked == [("/horen/v1/explain", {"model": "base@facts", "top": 5, "prompt": "Who runs Acme"}, None)]
    assert "e1 fires (score 0.9700)" in made.stdout
    assert "tokens 7 to 8 of 9" in made.stdout
    assert "[b]Who ...  runs[ Acme\\n]" in made.stdout
    [row] = [line.split() for line in made.stdout.splitlines() if line.startswith("e2")]
    assert row[:4] == ["e2", "0.9000", "-0.0500", "no"]


def test_json_is_the_servers_answer(run: Run, server: Server) -> None:
    made = run("explain", "--model", "base@facts", "x", "--top", "7", "--json")
    assert json.loads(made.stdout) == TOLD
    assert server.asked[0][1]["top"] == 7


def test_a_chat_and_a_key_go_along(run: Run, server: Server) -> None:
    run("explain", "--model", "base@facts", "Hi", "--chat", "--api-key", "secret")
    [(_, body, credential)] = server.asked
    assert (body["messages"], credential) == ([{"role": "user", "content": "Hi"}], "Bearer secret")
    assert "prompt" not in body


def test_nothing_near_is_said_too(run: Run, server: Server) -> None:
    empty = {**TOLD, "decision": {**TOLD["decision"], "fired": False, "score": None}, "nearest": []}
    server.answer = (200, json.dumps(empty).encode())
    assert "no edit fires" in run("explain", "--model", "base@facts", "x").stdout


@pytest.mark.parametrize(
    ("status", "error", "exit_code", "code"),
    [
        (404, {"message": "no.", "type": "NotFound", "code": "unknown_codebook"}, 4, "unknown_codebook"),
        (503, {"message": "no.", "type": "Unavailable", "code": "replica_stale"}, 7, "replica_stale"),
        (400, {"message": "too long", "type": "BadRequestError", "code": 400}, 3, "server_refused"),
        (401, "Unauthorized", 3, "server_refused"),
        (500, {"message": "oh", "type": "InternalServerError", "code": 500}, 7, "server_unavailable"),
    ],
)
def test_refusals_keep_their_code(
    run: Run, server: Server, status: int, error: object, exit_code: int, code: str
) -> None:
    server.answer = (status, json.dumps({"error": error}).encode())
    made = run("explain", "--model", "base@facts", "x")
    assert made.exit_code == exit_code
    assert made.stderr.startswith(f"error [{code}]: ")


def test_a_home_names_the_server(run: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOREN_SERVER")
    HomeLayout(tmp_path).write_endpoints(Endpoints(control="x", server=server.url, model="base", pids={}))
    assert run("explain", "--model", "base@facts", "x", "--home", tmp_path).exit_code == 0
    monkeypatch.setenv("HOREN_HOME", str(tmp_path))
    assert run("explain", "--model", "base@facts", "x").exit_code == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
def test_a_server_that_does_not_answer_is_a_sentence(run: Run, url: str) -> None:
    made = run("explain", "--model", "base@facts", "x", "--server", url)
    assert (made.exit_code, made.stderr.splitlines()[0][:26]) == (7, "error [server_unavailable]")


@pytest.mark.usefixtures("server")
def test_a_pipe_gets_whole_lines_however_narrow_it_is() -> None:
    made = CliRunner(env={"COLUMNS": "30"}).invoke(app, ["explain", "--model", "base@facts", "x"])
    assert "e2    0.9000  -0.0500  no     below the threshold by 0.0500" in made.stdout
