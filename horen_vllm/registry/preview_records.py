"""Previews: what would become of an edit, asked and answered through the registry."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import EditSpec


class PreviewVerdict(StrEnum):
    """What would become of an edit."""

    NEW = "new"
    """An entry of its own."""
    SAME = "same"
    """Nothing: an entry says the same already."""
    ALIAS = "alias"
    """An entry that reuses the value of another one with the same target."""
    SUPERSEDES = "supersedes"
    """An entry that replaces others with the same prompt."""
    REFUSED = "refused"
    """It would be refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collision:
    """A text of the edit that another edit's entry matches, or nearly."""

    edit_id: EditId
    """The other edit."""
    text: str
    score: float
    """Score of the text with the other edit's entry, a cosine."""
    threshold: float
    """What the entry's score must exceed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewAnswer:
    """What a worker found."""

    verdict: PreviewVerdict
    revision: int
    """Revision that the edit was compared with."""
    related: tuple[EditId, ...] = ()
    """The edits that SAME, ALIAS and SUPERSEDES are about."""
    collisions: tuple[Collision, ...] = ()
    """Nearest first."""
    refusal_code: str | None = None
    refusal: str | None = None
    """Why it would be refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewTask:
    """A preview that a worker has taken."""

    preview_id: str
    codebook: CodebookName
    spec: EditSpec
    sequence: int
    """Sequence number that the edit would have, had it been submitted when it was taken."""
    created_at: datetime


def answer_to_json(answer: PreviewAnswer) -> dict[str, Any]:
    """Return `answer` as JSON types."""
    return asdict(answer)


def answer_from_json(fields: Mapping[str, Any]) -> PreviewAnswer:
    """Read what `answer_to_json` wrote."""
    return PreviewAnswer(
        verdict=PreviewVerdict(fields["verdict"]),
        revision=fields["revision"],
        related=tuple(map(EditId, fields["related"])),
        collisions=tuple(Collision(**{**it, "edit_id": EditId(it["edit_id"])}) for it in fields["collisions"]),
        refusal_code=fields["refusal_code"],
        refusal=fields["refusal"],
    )


def spec_to_json(spec: EditSpec) -> dict[str, Any]:
    """Return `spec` as JSON types."""
    return asdict(spec)


def spec_from_json(fields: Mapping[str, Any]) -> EditSpec:
    """Read what `spec_to_json` wrote."""
    lists = {name: tuple(fields[name]) for name in ("aliases", "paraphrases", "must_not_fire")}
    return EditSpec(**{**fields, **lists})
