"""The warning of ``horen up`` about codebooks of another base model, with a real control plane."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from horen_vllm import fingerprint as fingerprint_module
from horen_vllm.cli import up as up_module
from horen_vllm.cli.layout import HomeLayout
from horen_vllm.cli.model_folder import open_model_folder
from horen_vllm.cli.stack import Stack, StackPlan
from horen_vllm.cli.supervisor import Supervisor
from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer

from .conftest import FINGERPRINT
from .dummy_stack import settings

Say = Callable[[], str]


@pytest.fixture
def stack(model_folder: Path, tmp_path: Path, server: ControlServer) -> Stack:
    """Return a stack that counts as started, with `server` as its control plane."""
    chosen = settings(model_folder, tmp_path / "home")
    port = int(server.address.rpartition(":")[2])
    made = Stack(chosen)
    made._plan = StackPlan(
        settings=chosen,
        model=open_model_folder(model_folder),
        layout=HomeLayout(chosen.home),
        port=1,
        control_port=port,
    )
    made._supervisor = Supervisor([])
    return made


@pytest.fixture
def say(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Run ``horen up`` on `stack`, whose parts are not started, and return what it prints."""
    monkeypatch.setattr(up_module, "start_stack", lambda *_arguments: True)
    monkeypatch.setattr(Stack, "wait", lambda _stack: None)

    def call() -> str:
        out = StringIO()
        up_module.run_stack(stack, Console(file=out, width=60))
        return out.getvalue()

    return call


def serve_model(monkeypatch: pytest.MonkeyPatch, fingerprint: str) -> None:
    monkeypatch.setattr(fingerprint_module, "model_fingerprint", lambda _folder, _site: fingerprint)


def test_codebooks_of_another_model_are_named_on_one_line(
    server: ControlServer, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_model(monkeypatch, "0" * 64)
    with HorenClient(server.address) as client:
        for name in ("first", "second"):
            client.create_codebook(name, preset="cosine", threshold=0.85)
    (line,) = [line for line in say().splitlines() if "warning" in line]
    assert line.endswith("not served: first (demo-model), second (demo-model)")


def test_codebooks_of_this_model_are_not(server: ControlServer, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_model(monkeypatch, FINGERPRINT)
    with HorenClient(server.address) as client:
        client.create_codebook("first", preset="cosine", threshold=0.85)
    assert "warning" not in say()


def test_a_home_without_codebooks_needs_no_fingerprint(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_folder: Path, _site: str) -> str:
        raise AssertionError("the weights are read for nothing")

    monkeypatch.setattr(fingerprint_module, "model_fingerprint", refuse)
    assert "warning" not in say()


def test_a_control_plane_that_does_not_answer_ends_nothing(server: ControlServer, say: Say) -> None:
    server.stop()
    said = say()
    assert "OpenAI server" in said
    assert "warning" not in said
