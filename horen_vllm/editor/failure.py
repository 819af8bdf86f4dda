"""What is an edit's failure, whose code and sentence the worker stores, and what is a fault of its surroundings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Final

from horen_vllm.errors import DataLoss, FailedPrecondition, HorenError, Internal, NotFound, Unavailable

_MOST_QUOTED: Final = 60
"""Characters of a prompt that a sentence quotes."""
_OF_THE_STORE: Final = frozenset({"artifacts_unavailable", "artifacts_forbidden", "artifact_collected"})
"""Codes of an artifact store that would fail any edit alike."""


class EditFailed(FailedPrecondition):
    """Training or verification did not bring the edit about; code and sentence say why, with the numbers."""

    default_code: ClassVar[str] = "edit_failed"


@contextmanager
def surroundings(doing: str) -> Iterator[None]:
    """Say of faults inside a ``with`` block that they are no edit's failure: a full disk, a file that is not there.

    Raises
    ------
    Unavailable
        ``editor_surroundings``, for OSError, NotFound, DataLoss, Internal and whatever an artifact store refuses.
    """
    try:
        yield
    except (OSError, HorenError) as exc:
        if not isinstance(exc, (OSError, NotFound, DataLoss, Internal)) and exc.code not in _OF_THE_STORE:
            raise
        raise Unavailable(f"{doing} failed: {exc}", code="editor_surroundings") from exc


def quoted(text: str) -> str:
    """Return a prompt in quotes, cut to what a sentence has room for."""
    return repr(text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}...")
