"""The endpoint plugin refuses what would make edits silently miss."""

import asyncio
from argparse import Namespace
from types import SimpleNamespace

import pytest

from horen_vllm.errors import FailedPrecondition
from horen_vllm.serving.endpoint import HorenEndpoint


def test_a_template_that_the_editor_does_not_know_is_refused() -> None:
    args = Namespace(chat_template="{{ messages }}", model="unused")
    with pytest.raises(FailedPrecondition, match="--chat-template") as caught:
        asyncio.run(HorenEndpoint().init_state(SimpleNamespace(), SimpleNamespace(), args))
    assert caught.value.code == "unsupported_engine_mode"
