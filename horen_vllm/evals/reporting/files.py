"""The JSON files of a run: read whole and checked, written whole."""

import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from horen_vllm.errors import InvalidArgument, NotFound

_Model = TypeVar("_Model", bound=BaseModel)


def read_model(path: Path, model: type[_Model]) -> _Model:
    """Return what a file holds.

    Raises
    ------
    NotFound
        ``run_not_found``: the file is not there.
    InvalidArgument
        ``invalid_run``: it does not hold that.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{path.parent} holds no run: it has no {path.name}.", code="run_not_found") from None
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        message = f"{path} is not what horen eval writes: {where}: {first['msg']}."
        raise InvalidArgument(message, code="invalid_run") from None


def write_whole(path: Path, text: str) -> None:
    """Write a file in one step, so that whoever is killed leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)
