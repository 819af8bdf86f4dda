"""ROME's form of an edit, which CounterFact and MQuAKE share: a cloze, its subject, the old and the new object."""

from horen_vllm.evals.data.defects import DefectKind
from horen_vllm.evals.data.row import Row


def filled(template: str, subject: str) -> str:
    """Return a cloze with the subject in the place of its braces."""
    return template.replace("{}", subject)


def new_object(edit: Row, *names: str) -> str:
    """Return what an edit makes true: the text of the first of these fields that is there, or its ``str``.

    Raises
    ------
    InvalidArgument
        As `Row.needed`.
    EmptyPartError
        It is empty.
    """
    part = _labelled(edit, *names)
    return edit.needed(DefectKind.EMPTY_TARGET, *names) if part is None else part.needed(DefectKind.EMPTY_TARGET, "str")


def old_object(edit: Row) -> str | None:
    """Return ``target_true``, or its ``str``; None when the row has none.

    Raises
    ------
    InvalidArgument
        As `Row.text`.
    """
    part = _labelled(edit, "target_true")
    return edit.text("target_true") if part is None else part.text("str")


def _labelled(edit: Row, *names: str) -> Row | None:
    name = edit.has(*names)
    part = edit.part(name) if name is not None and isinstance(edit.fields[name], dict) else None
    if part is not None:
        part.has("id")  # Wikidata's
    return part
