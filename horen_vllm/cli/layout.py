"""The home of an embedded installation: where its files are, who holds it, and where its parts answer."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from horen_vllm.errors import DataLoss, FailedPrecondition, Unavailable

_URL_ESCAPES: Final = str.maketrans({"%": "%25", "?": "%3F", "#": "%23"})
"""What would end the path of a URL or begin an escape; SQLAlchemy leaves all else as it is, undecodable bytes too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a running stack answers."""

    control: str
    """``HOST:PORT`` of the control plane."""
    server: str
    """Base URL of the OpenAI server, without a final slash."""
    model: str
    """Name of the clean model."""
    pids: dict[str, int]
    """Process of each part, and ``up`` for the one that holds them."""


@dataclass(frozen=True, slots=True)
class HomeLayout:
    """Paths below one home folder."""

    root: Path

    @property
    def database(self) -> Path:
        """File of the embedded database."""
        return self.root / "registry.sqlite"

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the embedded database."""
        return f"sqlite:///{str(self.database.absolute()).translate(_URL_ESCAPES)}"

    @property
    def artifacts(self) -> Path:
        """Folder of the artifacts."""
        return self.root / "artifacts"

    @property
    def logs(self) -> Path:
        """Folder of the parts' logs."""
        return self.root / "logs"

    @property
    def lock(self) -> Path:
        """File whose lock a running stack holds."""
        return self.root / "lock"

    @property
    def worker_ready(self) -> Path:
        """File that exists while the editor worker can take edits."""
        return self.root / "worker.ready"

    @property
    def endpoints_file(self) -> Path:
        """File that names the running stack's addresses."""
        return self.root / "endpoints.json"

    def create(self) -> None:
        """Make the folders; a new home is its owner's alone, for it tells what every tenant asked.

        Raises
        ------
        FailedPrecondition
            ``home_not_writable``.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.artifacts, self.logs):
                folder.mkdir(exist_ok=True)
        except OSError as exc:
            raise self._not_writable(exc) from exc

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home; the lock ends with the process, however it ends.

        Raises
        ------
        FailedPrecondition
            ``home_in_use``, when another process holds it; ``home_not_writable``.
        """
        try:
            file = self.lock.open("a")
        except OSError as exc:
            raise self._not_writable(exc) from exc
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                message = f"home {self.root} is in use by another `horen up`: stop that one or choose another --home."
                raise FailedPrecondition(message, code="home_in_use") from exc
            yield

    def write_endpoints(self, endpoints: Endpoints) -> None:
        """Publish the addresses, all at once."""
        temporary = self.endpoints_file.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(asdict(endpoints), indent=2) + "\n")
        temporary.replace(self.endpoints_file)

    def read_endpoints(self) -> Endpoints:
        """Return where the running stack answers.

        Raises
        ------
        Unavailable
            ``stack_not_running``, when nothing has published its addresses.
        DataLoss
            ``endpoints_unreadable``.
        """
        try:
            fields: dict[str, Any] = json.loads(self.endpoints_file.read_text())
            return Endpoints(**fields)
        except OSError as exc:
            message = f"nothing runs in home {self.root}: start it with `horen up --home {self.root}`."
            raise Unavailable(message, code="stack_not_running") from exc
        except (TypeError, ValueError) as exc:
            message = f"{self.endpoints_file} is not readable: stop the stack, remove the file and start it again."
            raise DataLoss(message, code="endpoints_unreadable") from exc

    def clear_endpoints(self) -> None:
        """Withdraw the addresses; harmless when there are none."""
        self.endpoints_file.unlink(missing_ok=True)

    def _not_writable(self, exc: OSError) -> FailedPrecondition:
        message = f"home {self.root} cannot be used: {exc.strerror}."
        return FailedPrecondition(message, code="home_not_writable")
