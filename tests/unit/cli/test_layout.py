"""The home: its database's URL for any path, and its lock."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.cli.layout import HomeLayout
from horen_vllm.errors import FailedPrecondition
from horen_vllm.registry.migrate import current, head

from .conftest import Run


@pytest.mark.parametrize(
    "folder",
    ["a?b", "a#b", "a%b", "a%3Fb", "a b", "a+b", "a&b=c", "user:pw@host", "?", "ä", os.fsdecode(b"a\xff")],
    ids=ascii,
)
def test_a_home_of_any_name_has_its_own_database(tmp_path: Path, run: Run, folder: str) -> None:
    layout = HomeLayout(tmp_path / folder)
    assert run("db", "upgrade", "--home", layout.root).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    with sqlite3.connect(layout.database) as database:
        assert database.execute("select version_num from alembic_version").fetchall() == [(head(),)]
    assert current(layout.database_url) == head()


def test_a_new_home_is_its_owners_alone(tmp_path: Path, run: Run) -> None:
    # The database tells what every tenant asked.
    home = tmp_path / "home"
    assert run("db", "upgrade", "--home", home).exit_code == 0
    assert home.stat().st_mode & 0o077 == 0


def test_a_home_that_was_opened_to_others_stays_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o770)
    HomeLayout(home).create()
    assert home.stat().st_mode & 0o777 == 0o770


def test_a_lock_that_may_not_be_written_is_an_error_with_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions do not stop root, who may run this test.
    def refuse(path: Path, *_arguments: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FailedPrecondition, match="Permission denied") as caught, HomeLayout(tmp_path).locked():
        pass
    assert caught.value.code == "home_not_writable"


def test_an_error_while_the_home_is_held_is_not_the_locks(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), HomeLayout(tmp_path).locked():
        raise PermissionError(13, "Permission denied")
