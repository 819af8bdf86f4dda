"""A file for a secret: readable by its owner only, and there from one moment to the next with all of it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from horen_vllm.errors import FailedPrecondition


@contextmanager
def secret_file(path: Path) -> Iterator[Callable[[str], None]]:
    """Give a function that makes its text the content of `path`; what stood there stays until then.

    A file is made at the start, so that a secret which can be told only once is not made for a place that cannot
    take it.

    Raises
    ------
    FailedPrecondition
        ``secret_file_not_writable``.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as exc:
        message = f"the secret cannot be written to {path}: {exc.strerror}."
        raise FailedPrecondition(message, code="secret_file_not_writable") from exc

    def write(text: str) -> None:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
        temporary.replace(path)

    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            yield write
    finally:
        temporary.unlink(missing_ok=True)
