"""The model list names the caller's codebooks, and only the list."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from horen_vllm.ids import DEFAULT_TENANT, CodebookName, TenantId
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.listing import list_codebooks
from horen_vllm.serving.tenant import acting_for
from tests.unit.serving.doubles import book_of, name_of

ACME = TenantId("acme")


class Card(BaseModel):
    id: str
    max_model_len: int = 7
    parent: str | None = None


class Models:
    base_model_paths = ("base",)

    async def show_available_models(self) -> Any:
        return SimpleNamespace(data=[Card(id="base")])


@pytest.fixture
def models() -> Models:
    return Models()


BOOKS = (name_of("b"), CodebookName(ACME, "b"), CodebookName(ACME, "secret"))


@pytest.fixture
def served(models: Models) -> ServedCodebooks:
    served = ServedCodebooks(["base"], stale_after_s=30.0)
    list_codebooks(models, served)
    served.show(map(book_of, BOOKS), confirmed_at=None)
    return served


def listed(models: Models, tenant: TenantId | None) -> list[Card]:
    with acting_for(tenant):
        return list(asyncio.run(models.show_available_models()).data)


def test_codebooks_follow_the_clean_model_and_come_and_go(models: Models, served: ServedCodebooks) -> None:
    cards = listed(models, DEFAULT_TENANT)
    assert [(card.id, card.parent, card.max_model_len) for card in cards] == [("base", None, 7), ("base@b", "base", 7)]
    served.show(map(book_of, BOOKS[1:]), confirmed_at=None)
    assert [card.id for card in listed(models, DEFAULT_TENANT)] == ["base"]
    assert models.base_model_paths == ("base",)


@pytest.mark.parametrize(
    ("tenant", "codebooks"), [(ACME, ["base@b", "base@secret"]), (TenantId("globex"), []), (None, [])]
)
def test_nobody_sees_anothers_codebooks(
    models: Models, served: ServedCodebooks, tenant: TenantId | None, codebooks: list[str]
) -> None:
    assert [card.id for card in listed(models, tenant)] == ["base", *codebooks]
