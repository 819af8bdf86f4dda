"""The model list names codebooks, and only the list."""

import asyncio
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel

from horen_vllm.serving.codebooks import ServedCodebook, ServedCodebooks
from horen_vllm.serving.listing import list_codebooks
from tests.unit.serving.doubles import name_of


class Card(BaseModel):
    id: str
    max_model_len: int = 7
    parent: str | None = None


class Models:
    base_model_paths = ("base",)

    async def show_available_models(self) -> Any:
        return SimpleNamespace(data=[Card(id="base")])


def test_codebooks_follow_the_clean_model_and_come_and_go() -> None:
    served, models = ServedCodebooks(["base"], stale_after_s=30.0), Models()
    list_codebooks(models, served)
    served.set(ServedCodebook(name=name_of("b"), revision=1, window_ratio=0.6))
    cards = asyncio.run(models.show_available_models()).data
    assert [(card.id, card.parent, card.max_model_len) for card in cards] == [("base", None, 7), ("base@b", "base", 7)]
    served.drop(name_of("b"))
    assert [card.id for card in asyncio.run(models.show_available_models()).data] == ["base"]
    assert models.base_model_paths == ("base",)
