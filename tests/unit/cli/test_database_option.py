"""Which database a command works on: what is said, before what the environment says."""

from pathlib import Path

import pytest

from horen_vllm.cli.database import database_url
from horen_vllm.errors import InvalidArgument

URL = "postgresql+psycopg://horen@db/horen"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOREN_DATABASE", raising=False)
    monkeypatch.delenv("HOREN_HOME", raising=False)


def test_an_option_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOREN_DATABASE", "postgresql+psycopg://other/other")
    monkeypatch.setenv("HOREN_HOME", "elsewhere")
    assert database_url(URL, None) == URL
    assert database_url(None, tmp_path) == f"sqlite:///{tmp_path}/registry.sqlite"


def test_the_url_of_the_environment_goes_before_its_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOREN_HOME", str(tmp_path))
    assert database_url(None, None) == f"sqlite:///{tmp_path}/registry.sqlite"
    monkeypatch.setenv("HOREN_DATABASE", URL)
    assert database_url(None, None) == URL


def test_two_and_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        database_url(URL, tmp_path)
    assert caught.value.code == "database_ambiguous"
    with pytest.raises(InvalidArgument) as caught:
        database_url(None, None)
    assert caught.value.code == "database_required"
