"""``horen explain``: which entries were near a prompt, and why each fires or not."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text

from horen_vllm.cli.connection import HomeOption
from horen_vllm.cli.layout import HomeLayout
from horen_vllm.cli.output import JsonFlag, print_fields, print_json, print_rows
from horen_vllm.cli.stack import DEFAULT_PORT
from horen_vllm.errors import HorenError, InvalidArgument, Unavailable

DEFAULT_SERVER: Final = f"http://127.0.0.1:{DEFAULT_PORT}"
"""Where the server listens unless told otherwise."""
_TIMEOUT_S: Final = 60.0
_SERVER_ERROR: Final = 500
_CLASSES: Final = {kind.__name__: kind for kind in HorenError.__subclasses__()}


def explain(
    *,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Prompt, as a user sends it.")],
    model: Annotated[str, typer.Option(metavar="NAME@CODEBOOK", help="Model name with the codebook.")],
    chat: Annotated[bool, typer.Option("--chat", help="Ask as a chat with one user message.")] = False,
    top: Annotated[int, typer.Option(min=1, max=50, help="Entries to list.")] = 5,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help=f"Base URL of the server (env: HOREN_SERVER; {DEFAULT_SERVER})."),
    ] = None,
    home: HomeOption = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="HOREN_API_KEY", show_envvar=True, help="Key of the tenant.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show which entries of a codebook are near a prompt, with their scores, and why each fires or not."""
    asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    told = _ask(server_url(server, home), {"model": model, "top": top, **asked}, api_key)
    if as_json:
        print_json(told)
        return
    _print(told)


def server_url(server: str | None, home: Path | None) -> str:
    """Return the base URL of the OpenAI server that the options name, else the environment."""
    if server or home:
        return server or HomeLayout(Path(home or ".")).read_endpoints().server
    if url := os.environ.get("HOREN_SERVER"):
        return url
    if named := os.environ.get("HOREN_HOME"):
        return HomeLayout(Path(named)).read_endpoints().server
    return DEFAULT_SERVER


def _ask(server: str, body: dict[str, Any], api_key: str | None) -> dict[str, Any]:
    import httpx  # noqa: PLC0415 - `horen --help` does not need it

    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with httpx.Client(base_url=server, headers=headers, timeout=_TIMEOUT_S, trust_env=False) as client:
            answer = client.post("/horen/v1/explain", json=body)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise Unavailable(f"no server answers at {server}: {exc}.", code="server_unavailable") from exc
    if not answer.is_success:
        raise _refusal(answer.status_code, answer.content)
    told: dict[str, Any] = answer.json()
    return told


def _refusal(status: int, content: bytes) -> HorenError:
    """Return the error of an answer: ours by its class and code, vLLM's own with its words."""
    try:
        error = json.loads(content)["error"]
        message, kind, code = error["message"], _CLASSES.get(error["type"]), error["code"]
    except (ValueError, KeyError, TypeError):
        message, kind, code = f"the server answered with status {status}.", None, None
    if kind is not None and isinstance(code, str):
        return kind(message, code=code)
    if status >= _SERVER_ERROR:
        return Unavailable(message, code="server_unavailable")
    return InvalidArgument(message, code="server_refused")


def _print(told: dict[str, Any]) -> None:
    decision, score = told["decision"], told["decision"]["score"]
    verdict = f"{decision['edit_id']} fires" if decision["fired"] else "no edit fires"
    print_fields(
        (
            ("model", told["model"]),
            ("revision", told["revision"]),
            ("decision", verdict if score is None else f"{verdict} (score {score:.4f})"),
            ("threshold", f"{told['threshold']:.4f}"),
            ("query span", _range(told["query_span"], told["prompt_tokens"])),
            ("query window", _range(told["query_window"], told["prompt_tokens"])),
        )
    )
    console = Console()
    console.print(_marked_tokens(told["tokens"]), soft_wrap=True)
    columns = (
        ("EDIT", lambda row: row["edit_id"]),
        ("SCORE", lambda row: f"{row['score']:.4f}"),
        ("MARGIN", lambda row: f"{row['margin']:+.4f}"),
        ("FIRES", lambda row: "yes" if row["fires"] else "no"),
        ("WHY", lambda row: row["reason"]),
    )
    print_rows(told["nearest"], columns, as_json=False)


def _range(positions: list[int], length: int) -> str:
    return f"tokens {positions[0]} to {positions[1] - 1} of {length}"


def _marked_tokens(tokens: list[dict[str, Any]]) -> Text:
    """Return the prompt's tokens with the window set off by brackets, which survive without colours."""
    line, inside, last = Text(), False, None
    for token in tokens:
        if last is not None and token["position"] != last + 1:
            line.append(" ... ", style="dim")
        if token["in_window"] != inside:
            line.append("[" if token["in_window"] else "]")
            inside = token["in_window"]
        line.append(token["text"].replace("\n", "\\n"), style="bold" if inside else "dim")
        last = token["position"]
    return line.append("]") if inside else line
