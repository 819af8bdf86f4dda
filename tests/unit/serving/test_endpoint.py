"""The endpoint plugin refuses what would make edits silently miss."""

import asyncio
from argparse import Namespace
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from horen_vllm.errors import FailedPrecondition
from horen_vllm.serving.endpoint import HorenEndpoint


def test_a_template_that_the_editor_does_not_know_is_refused() -> None:
    args = Namespace(chat_template="{{ messages }}", model="unused")
    with pytest.raises(FailedPrecondition, match="--chat-template") as caught:
        asyncio.run(HorenEndpoint().init_state(SimpleNamespace(), SimpleNamespace(), args))
    assert caught.value.code == "unsupported_engine_mode"


@pytest.mark.parametrize(("variable", "value"), [("HOREN_AUTH", "Keys"), ("HOREN_KEY_CACHE_S", "1000")])
def test_wrong_settings_end_the_start(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """vLLM goes on without a plugin that it cannot construct: then nothing would ask for keys."""
    from vllm.plugins.endpoint_plugins.interface import attach_endpoint_plugins

    monkeypatch.setenv("VLLM_PLUGINS", "horen,horen_serving")
    monkeypatch.setenv("HOREN_AUTH", "keys")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError):
        attach_endpoint_plugins(FastAPI(), ("generate",))
