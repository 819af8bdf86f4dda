"""The judge of a GRACE codebook: an edit's key and radius, and whose radii it cuts (Hartvigsen et al. 2023).

GRACE changes entries in place: it widens the radius of a key for one more prompt with the same label, and halves it
where another label comes near. Entries never change here. A wider ball is an entry of its own around the same key, and
a cut is noted with the entry that makes it, so that either is undone by taking that entry away.

What differs from GRACE:

- A cut is the least of all that entries of the revision make, so a later one never widens an earlier one's. GRACE sets
  the radius to half the new distance, even where that is more.
- Widening after a cut makes a ball that the cut does not name. Once the cut is gone the first ball is whole again, but
  the later, perhaps smaller one stands in front of it (the newest entry of a key decides).
- A cut may leave prompts of earlier edits outside. GRACE forgets them as well, and nothing is refused for it.
- Equal distances do not fire (GRACE: they do), and the server finds distances from products in which large numbers
  cancel. What must fire has room for that (`core.euclid.rounding`), and what must not fire keeps clear of it; between
  two keys that are equally near within it, either may decide.

Shapes: D width of the site's input, R rows of the key buffer.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from horen_vllm.core.admission import Admission, AdmissionKind, Existing, admission
from horen_vllm.core.euclid import distances, lifted_key
from horen_vllm.editor.codebook.balls import Ball, GraceEntry, bounds, effective_radii, radius_over
from horen_vllm.editor.failure import EditFailed, quoted
from horen_vllm.ids import EditId


@dataclass(frozen=True, slots=True, kw_only=True)
class GraceEdit:
    """A new edit."""

    sequence: int
    normalised_prompt: str
    target_ids: tuple[int, ...]
    query: torch.Tensor
    """[D] float32: the site's input at the last token of its prompt."""
    foreign_texts: tuple[str, ...] = ()
    """The must-not-fire prompts."""
    foreign_queries: torch.Tensor | None = None
    """[foreign, D] float32; None where there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraceVerdict:
    """What an edit that can be published means for its codebook."""

    kind: AdmissionKind
    ball: Ball | None = None
    """None for SAME."""
    same_as: EditId | None = None
    """The edit that already says it (SAME)."""
    alias_of: EditId | None = None
    """The edit whose value it may reuse (ALIAS)."""
    supersedes: tuple[EditId, ...] = ()
    """Edits whose entries it replaces (SUPERSEDE)."""
    overlaps: tuple[EditId, ...] = ()
    """The edit with another target at the nearest key, if it is so near that both balls are cut."""


@dataclass(frozen=True, slots=True)
class _Centre:
    """The nearest key."""

    key: torch.Tensor
    """[D + 2] float32."""
    entries: tuple[int, ...]
    """Numbers of the entries that have it, by sequence; the last one decides."""
    distance: float


class GraceJudge:
    """Judges edits against one state of a codebook.

    Parameters
    ----------
    first_radius
        Radius of a new key (`MethodParameters.radius`).
    keys
        [R, D + 2] float32, distinct lifted keys; rows that no entry has mean nothing.
    entries
        The codebook's entries.
    """

    def __init__(self, first_radius: float, keys: torch.Tensor, entries: Sequence[GraceEntry]) -> None:
        self._first = first_radius
        self._keys = keys
        self._entries = entries

    def verdict(self, edit: GraceEdit, *, own_key: bool = False) -> GraceVerdict:
        """Judge an edit.

        Parameters
        ----------
        edit
            The edit.
        own_key
            Whether it is to have a key of its own even where it could be an alias: the value that it would have
            reused does not give its target.

        Raises
        ------
        EditFailed
            ``newer_edit_published``, when it would replace an edit that was submitted after it; ``key_not_matched``,
            when its own prompt would not reach it; ``must_not_fire_fires``, when a must-not-fire prompt lies within
            the radius of its key, or of the entry that says the same already.
        """
        same_prompt = [
            index
            for index, entry in enumerate(self._entries)
            if entry.existing.normalised_prompt == edit.normalised_prompt
        ]
        radii = self._radii(same_prompt)
        centre = self._centre(edit.query, same_prompt)
        met = self._met(centre, radii)
        if own_key and met is not None and self._existing(met).target_ids == edit.target_ids:
            met = None
        existing = {index: entry.existing for index, entry in enumerate(self._entries)}
        admitted = admission(edit.target_ids, existing, same_prompt, lambda: () if met is None else (met,))
        if admitted.kind is AdmissionKind.SAME:
            self._check_same(edit, admitted)
            return self._verdict(admitted, None)
        self._check_age(edit, admitted.supersedes)
        ball = self._ball(edit, admitted, centre, radii)
        self._check_own(edit, ball, centre)
        _check_foreign(edit, ball.key, ball.radius)
        return self._verdict(admitted, ball)

    def _existing(self, index: int) -> Existing:
        return self._entries[index].existing

    def _edit_id(self, index: int) -> EditId:
        return EditId(self._existing(index).edit_id)

    def _radii(self, leaving: Collection[int]) -> dict[str, float]:
        return effective_radii(
            (entry.existing.edit_id, entry.radius, entry.splits)
            for index, entry in enumerate(self._entries)
            if index not in leaving
        )

    def _centre(self, query: torch.Tensor, leaving: Collection[int]) -> _Centre | None:
        """Return the key that is nearest to a query [D] when the entries `leaving` are gone."""
        holders: dict[int, list[int]] = {}
        for index, entry in enumerate(self._entries):
            if index not in leaving:
                holders.setdefault(entry.row, []).append(index)
        if not holders:
            return None
        rows = sorted(holders)
        apart = distances(query[None], self._keys)[0][rows]
        nearest = rows[int(apart.argmin())]
        entries = sorted(holders[nearest], key=lambda index: self._existing(index).sequence)
        return _Centre(self._keys[nearest], tuple(entries), float(apart.min()))

    def _met(self, centre: _Centre | None, radii: dict[str, float]) -> int | None:
        """Return the entry at the nearest key, if the ball of a new key would meet its."""
        if centre is None:
            return None
        nearest = centre.entries[-1]
        return nearest if centre.distance <= radii[self._edit_id(nearest)] + self._first else None

    def _ball(self, edit: GraceEdit, admitted: Admission, centre: _Centre | None, radii: dict[str, float]) -> Ball:
        if centre is not None and admitted.kind is AdmissionKind.ALIAS:
            held = radii[self._edit_id(centre.entries[-1])]
            return Ball(centre.key, max(held, radius_over(edit.query, centre.key)))
        own = lifted_key(edit.query)
        if centre is None or not admitted.overlaps:
            return Ball(own, self._first)
        half = centre.distance / 2
        wider = [index for index in centre.entries if self._entries[index].radius > half]
        return Ball(own, half, tuple((self._edit_id(index), half) for index in wider))

    def _check_age(self, edit: GraceEdit, supersedes: Sequence[int]) -> None:
        for index in supersedes:
            if self._existing(index).sequence > edit.sequence:
                newer = self._edit_id(index)
                message = f"edit {newer} of the same prompt was submitted after this one and is published already."
                raise EditFailed(message, code="newer_edit_published")

    def _check_own(self, edit: GraceEdit, ball: Ball, centre: _Centre | None) -> None:
        most, _ = bounds(edit.query[None], ball.key)
        if float(most) >= ball.radius:
            message = (
                f"{quoted(edit.normalised_prompt)} does not reach its own key for certain: within rounding it may lie "
                f"{float(most):.4g} away (radius {ball.radius:.4g})."
            )
            raise EditFailed(message, code="key_not_matched")
        if centre is not None and torch.equal(centre.key, ball.key):
            newest = self._existing(centre.entries[-1])
            if newest.sequence > edit.sequence:
                message = f"{quoted(edit.normalised_prompt)} has the key of the newer edit {newest.edit_id}."
                raise EditFailed(message, code="key_not_matched")

    def _check_same(self, edit: GraceEdit, admitted: Admission) -> None:
        assert admitted.entry is not None, "SAME names the entry"
        entry = self._entries[admitted.entry]
        _check_foreign(edit, self._keys[entry.row], self._radii(())[entry.existing.edit_id])

    def _verdict(self, admitted: Admission, ball: Ball | None) -> GraceVerdict:
        entry = None if admitted.entry is None else self._edit_id(admitted.entry)
        return GraceVerdict(
            kind=admitted.kind,
            ball=ball,
            same_as=entry if admitted.kind is AdmissionKind.SAME else None,
            alias_of=entry if admitted.kind is AdmissionKind.ALIAS else None,
            supersedes=tuple(map(self._edit_id, admitted.supersedes)),
            overlaps=tuple(map(self._edit_id, admitted.overlaps)),
        )


def _check_foreign(edit: GraceEdit, key: torch.Tensor, radius: float) -> None:
    if edit.foreign_queries is None:
        return
    _, least = bounds(edit.foreign_queries, key)
    for text, distance in zip(edit.foreign_texts, least.tolist(), strict=True):
        if distance < radius:
            message = f"{quoted(text)} must not fire, but lies {distance:.4g} from the key (radius {radius:.4g})."
            raise EditFailed(message, code="must_not_fire_fires")
