"""Files of general prompts: ordinary chat, and questions of what a model can do."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.data.defects import Defect, DefectKind, DefectLog
from horen_vllm.evals.data.layouts.layout import row_id
from horen_vllm.evals.data.reading import open_rows
from horen_vllm.evals.data.row import EmptyPartError, Row, shown

_PROMPTS: Final = ("prompt", "question", "instruction")
_ANSWERS: Final = ("answers", "answer", "best_answer", "output", "solution", "canonical_solution")


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralPrompt:
    """A prompt that belongs to no edit.

    Attributes
    ----------
    answers
        Right answers, the canonical one first; empty when the file has none.
    """

    prompt_id: str
    line: int
    prompt: str
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralPrompts:
    """A file of general prompts.

    Attributes
    ----------
    prompts
        In the order of the file, each text once.
    """

    path: Path
    sha256: str
    prompts: tuple[GeneralPrompt, ...]
    defects: tuple[Defect, ...]


def open_prompts(path: Path) -> GeneralPrompts:
    """Return the prompts of a file: JSON lines or a JSON array, with ``prompt`` and, where there are any, answers.

    ``question``, ``instruction`` and the first of ``turns`` are read in the place of ``prompt``. White space is kept.

    Raises
    ------
    InvalidArgument
        As `open_dataset`, for the same reasons.
    """
    log = DefectLog()
    source = open_rows(path)
    found: dict[str, GeneralPrompt] = {}
    for row in source.rows(log, verbatim=True):
        for prompt in _read(row):
            earlier = found.setdefault(normalise_prompt(prompt.prompt), prompt)
            if earlier is not prompt:
                log.add(DefectKind.DUPLICATE_PROMPT, f"{row.where}: as {source.place} {earlier.line}")
    if not found:
        raise InvalidArgument(f"{path} has no prompts.", code="empty_dataset")
    return GeneralPrompts(path=path, sha256=source.sha256, prompts=tuple(found.values()), defects=log.defects())


def _read(row: Row) -> Iterator[GeneralPrompt]:
    try:
        prompt = row.needed(DefectKind.EMPTY_PROMPT, *_PROMPTS) if row.has(*_PROMPTS) else _first_turn(row)
    except EmptyPartError as empty:
        row.log.add(empty.kind, str(empty))
        return
    yield GeneralPrompt(
        prompt_id=row_id(row), line=row.number, prompt=prompt, answers=tuple(dict.fromkeys(row.texts(*_ANSWERS)))
    )
    for name in row.unread():
        row.log.unused(name)


def _first_turn(row: Row) -> str:
    if row.has("turns") is None:
        return row.needed(DefectKind.EMPTY_PROMPT, *_PROMPTS)
    turns = row.fields["turns"]
    if not isinstance(turns, list) or not turns:
        raise row.wrong("turns", "is not a list of turns")
    if isinstance(turns[0], dict):
        return row.parts("turns")[0].needed(DefectKind.EMPTY_PROMPT, "content")
    text = row.clean(turns[0], "turns[0]")
    if text is None:
        raise EmptyPartError(DefectKind.EMPTY_PROMPT, f"{row.where}: turns[0] {shown(turns[0])}")
    return text
