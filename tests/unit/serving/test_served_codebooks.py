"""Which model names are ours, and when a server stops answering for them."""

import pytest

from horen_vllm.core.presets import SpanMode
from horen_vllm.errors import NotFound, Unavailable
from horen_vllm.plugin.tag import RequestTag
from horen_vllm.serving.codebooks import ServedCodebook
from tests.unit.serving.doubles import Clock, book_of, name_of, served_books


@pytest.mark.parametrize("model", ["base", "org/alias@v1", "other", "other@facts", "org/alias@facts", "", "@facts"])
def test_clean_and_foreign_names_are_none(model: str) -> None:
    assert served_books("facts", touch=False).resolve(model) is None


@pytest.mark.parametrize("model", ["base@facts", "org/alias@v1@facts"])
def test_every_base_name_leads_to_the_codebook(model: str) -> None:
    assert served_books("facts").resolve(model) == RequestTag(str(name_of("facts")), 0.5)


@pytest.mark.parametrize("model", ["base@other", "base@", "org/alias@v1@"])
def test_an_unknown_codebook_is_not_found(model: str) -> None:
    with pytest.raises(NotFound) as caught:
        served_books("facts").resolve(model)
    assert caught.value.code == "unknown_codebook"


@pytest.mark.parametrize("model", ["base@facts", "base@other"])
def test_before_the_first_contact_every_codebook_is_unavailable(model: str) -> None:
    served = served_books("facts", touch=False)
    with pytest.raises(Unavailable) as caught:
        served.resolve(model)
    assert caught.value.code == "replica_stale"


def test_a_silent_control_plane_makes_the_server_stale_and_contact_heals_it() -> None:
    clock = Clock()
    served = served_books("facts", clock=clock)
    clock.now += 30.0
    assert not served.stale
    clock.now += 0.001
    assert served.stale
    with pytest.raises(Unavailable):
        served.resolve("base@facts")
    assert served.resolve("base") is None
    served.show([book_of("facts")], confirmed_at=clock())
    assert served.resolve("base@facts") is not None


def test_another_tenants_codebook_is_not_found() -> None:
    served = served_books("facts")
    with pytest.raises(NotFound):
        served.resolve("base@facts", tenant=type(name_of("x").tenant)("other"))


def test_a_codebook_moves_is_listed_and_goes() -> None:
    clock = Clock()
    served = served_books("facts", "alpha", clock=clock)
    moved = ServedCodebook(name=name_of("facts"), revision=4, window_ratio=1.0, span=SpanMode.PROMPT)
    served.show([moved, book_of("alpha")], confirmed_at=clock())
    assert served.revisions() == {name_of("facts"): 4, name_of("alpha"): 3}
    assert served.model_names() == ["base@alpha", "base@facts"]
    tag = served.resolve("base@facts")
    assert tag is not None
    assert tag.window_ratio == 1.0
    served.show([book_of("alpha")], confirmed_at=clock())
    assert served.model_names() == ["base@alpha"]
    with pytest.raises(NotFound):
        served.resolve("base@facts")
