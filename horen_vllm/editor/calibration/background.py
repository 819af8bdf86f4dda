"""Background prompts, which calibration is fitted on: from the operator's file, or the built-in ones."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.editor.calibration.builtin import expanded
from horen_vllm.editor.calibration.prompt import BackgroundPrompt
from horen_vllm.errors import InvalidArgument

__all__ = ["MIN_PROMPTS", "BackgroundPrompt", "builtin_background", "check_background", "load_background"]

MIN_PROMPTS: Final = 300
"""Fewer distinct prompts say too little about what users ask."""


def load_background(path: Path) -> tuple[BackgroundPrompt, ...]:
    r"""Return the prompts of a file of JSON lines, in its order, of equal ones the first.

    A line is an object with ``prompt`` and, where known, ``subject``, ``relation``, ``rephrase`` (each a text or null)
    and ``rephrases`` (texts); other fields are ignored, and so are empty lines. Lines end with ``\n`` only. Whether
    they are enough is for `check_background` to say.

    Raises
    ------
    InvalidArgument
        ``invalid_background``, naming the file and, within it, the line and the field.
    """
    distinct: dict[str, BackgroundPrompt] = {}
    for prompt in _read(path):
        distinct.setdefault(normalise_prompt(prompt.prompt), prompt)
    return tuple(distinct.values())


def builtin_background() -> tuple[BackgroundPrompt, ...]:
    """Return the built-in prompts: always the same, all distinct, any beginning of them a sample of the whole."""
    return expanded()


def check_background(prompts: Iterable[BackgroundPrompt]) -> None:
    """Refuse prompts that are too few to calibrate on.

    Raises
    ------
    InvalidArgument
        ``too_few_background_prompts``, when fewer than `MIN_PROMPTS` of them are distinct.
    """
    count = len({normalise_prompt(prompt.prompt) for prompt in prompts})
    if count < MIN_PROMPTS:
        message = f"{count} distinct background prompts are too few to calibrate on: give at least {MIN_PROMPTS}."
        raise InvalidArgument(message, code="too_few_background_prompts")


def _read(path: Path) -> Iterator[BackgroundPrompt]:
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as exc:
        message = f"the background file {path} cannot be read: {exc.strerror}."
        raise InvalidArgument(message, code="invalid_background") from exc
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _parsed(line, f"{path}, line {number}")


def _parsed(line: bytes, where: str) -> BackgroundPrompt:
    try:
        fields = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise _invalid(where, "not JSON in UTF-8") from exc
    if not isinstance(fields, dict):
        raise _invalid(where, "not a JSON object")
    prompt = _text(fields.get("prompt"), where, "prompt")
    subject = _optional(fields, "subject", where)
    if subject is not None and normalise_prompt(subject) not in normalise_prompt(prompt):
        raise _invalid(where, f"field 'subject': {subject!r} is not in the prompt")
    return BackgroundPrompt(prompt, subject, _optional(fields, "relation", where), _rephrases(fields, prompt, where))


def _rephrases(fields: Mapping[str, Any], prompt: str, where: str) -> tuple[str, ...]:
    """Return the other wordings of `prompt`, of equal ones the first."""
    several = fields.get("rephrases", [])
    if not isinstance(several, list):
        raise _invalid(where, "field 'rephrases': not a list of texts")
    one = _optional(fields, "rephrase", where)
    distinct = {normalise_prompt(prompt): prompt}
    for text in [*([] if one is None else [one]), *(_text(text, where, "rephrases") for text in several)]:
        distinct.setdefault(normalise_prompt(text), text)
    return tuple(distinct.values())[1:]


def _optional(fields: Mapping[str, Any], field: str, where: str) -> str | None:
    return None if fields.get(field) is None else _text(fields[field], where, field)


def _text(value: Any, where: str, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _invalid(where, f"field {field!r}: must be a text that is not empty")
    # Half of a surrogate pair, which JSON can write and no tokenizer reads.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _invalid(where, f"field {field!r}: not valid Unicode text")
    return value


def _invalid(where: str, fault: str) -> InvalidArgument:
    return InvalidArgument(f"the background file {where}: {fault}.", code="invalid_background")
