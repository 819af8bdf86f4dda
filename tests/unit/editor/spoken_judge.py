"""The plain rules that edits with subjects are judged by: every entry, every time."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from horen_vllm.artifact import KeyContext
from horen_vllm.core.admission import AdmissionKind, normalise_prompt
from horen_vllm.core.presets import MethodParameters
from horen_vllm.editor.codebook.false_fires import FLOOR_MARGIN, HIGHEST
from horen_vllm.editor.codebook.lineup import TIE_MARGIN
from horen_vllm.editor.codebook.prospect import Prospect, Verdict
from horen_vllm.editor.contexts import EditContext
from tests.unit.editor.spoken_world import Places, World, said_in, text_of


@dataclass(frozen=True, slots=True)
class Told:
    """Who gets a prompt: the one that fires, and the one with the best score."""

    fires: Prospect | None
    best: Prospect | None
    score: float


_NOBODY = Told(None, None, -math.inf)
Outcome = tuple[object, ...]


class Refused(Exception):
    """An edit that cannot be published."""


@dataclass
class Plain:
    """The rules, slowly."""

    world: World
    live: list[Prospect] = field(default_factory=list)
    floors: dict[int, float] = field(default_factory=dict)

    @property
    def parameters(self) -> MethodParameters:
        return self.world.keying.parameters

    def mask(self, context: EditContext | KeyContext, anchors: Collection[tuple[str, ...]]) -> tuple[Places, Places]:
        """Return where the anchors occur, and the positions inside the window that are left out."""
        text = text_of(context.prompt_ids)
        words = said_in(context.prompt_ids)
        places: list[tuple[int, int]] = []
        for start in range(len(words)):
            stops = [
                start + len(name)
                for name in anchors
                if tuple(word.text for word in words[start : start + len(name)]) == name
            ]
            if stops and (not places or places[-1][1] <= start):
                places.append((start, max(stops)))
        window = len(context.prompt_ids) - math.ceil(self.parameters.window_ratio * len(context.prompt_ids))
        left: set[int] = set()
        for first, stop in places:
            # A token is a byte.
            begin, end = (len(text[:at].encode()) for at in (words[first].start, words[stop - 1].stop))
            left |= set(range(max(begin, window), end))
        if not self.parameters.mask_subject or len(left) == len(context.prompt_ids) - window:
            left = set()
        return tuple(places), _runs(left)

    def anchored(self, context: EditContext | KeyContext, entries: Sequence[Prospect]) -> Told:
        """Return who gets a prompt among the entries with anchors (rule 3)."""
        scores: dict[int, float] = {}
        words = tuple(word.text for word in said_in(context.prompt_ids))
        for at, entry in enumerate(entries):
            places, left = self.mask(context, entry.anchors)
            if not places:
                continue
            whole = not self.parameters.mask_subject or (not left and self._fills(context, places))
            named = set() if whole else {word for first, stop in places for word in range(first, stop)}
            said = tuple(word for number, word in enumerate(words) if number not in named)
            query = self.world.query(KeyContext(context.prompt_ids, context.span, left), said)
            scores[at] = float((entry.keys @ query).max())
        return self._told(scores, entries, self.parameters.anchored_threshold)

    def open(self, context: EditContext | KeyContext, entries: Sequence[Prospect]) -> Told:
        """Return who gets a prompt among the entries without (rule 2)."""
        words = tuple(word.text for word in said_in(context.prompt_ids))
        query = self.world.query(KeyContext(context.prompt_ids, context.span), words)
        scores = {at: float((entry.keys @ query).max()) for at, entry in enumerate(entries) if not entry.anchors}
        return self._told(scores, entries, self.parameters.threshold)

    def decided(self, context: EditContext | KeyContext, entries: Sequence[Prospect]) -> Prospect | None:
        """Return who answers a prompt (rule 4)."""
        return self.anchored(context, entries).fires or self.open(context, entries).fires

    def _fills(self, context: EditContext | KeyContext, places: Places) -> bool:
        text = text_of(context.prompt_ids)
        words, size = said_in(context.prompt_ids), len(context.prompt_ids)
        window = set(range(size - math.ceil(self.parameters.window_ratio * size), size))
        for first, stop in places:
            begin, end = (len(text[:at].encode()) for at in (words[first].start, words[stop - 1].stop))
            window -= set(range(begin, end))
        return not window

    def _told(self, scores: dict[int, float], entries: Sequence[Prospect], threshold: float) -> Told:
        if not scores:
            return _NOBODY
        highest = max(scores.values())
        best = max((entries[at] for at, score in scores.items() if score >= highest - TIE_MARGIN), key=_sequence)
        fires = highest > max(threshold, self.floors.get(best.sequence, -1.0))
        return Told(best if fires else None, best, highest)

    def judged(self, new: Prospect) -> Outcome:
        """Judge an edit; publish it if that can be."""
        try:
            return self._judged(new)
        except Refused as exc:
            return (str(exc),)
        finally:
            if new not in self.live:
                self.floors.pop(new.sequence, None)

    def _judged(self, new: Prospect) -> Outcome:
        rule = self.anchored if new.anchors else self.open
        same_prompt = [it for it in self.live if it.normalised_prompt == new.normalised_prompt]
        for it in same_prompt:
            if it.target_ids == new.target_ids and _says(it, new):
                if any(rule(context, self.live).fires is it for context in new.foreign):
                    if new.anchors:
                        continue  # it is made again, with a floor
                    raise Refused("must_not_fire_fires")
                return (AdmissionKind.SAME, it.edit_id, None, (), (), ())
        hits = list(dict.fromkeys(told.sequence for it in new.contexts if (told := rule(it, self.live).fires)))
        basins = [next(it for it in self.live if it.sequence == hit) for hit in hits]
        overlaps = [it for it in basins if it not in same_prompt and it.target_ids != new.target_ids]
        lenders = [it.edit_id for it in basins if it.target_ids == new.target_ids and not overlaps and not same_prompt]
        if any(it.sequence > new.sequence for it in same_prompt):
            raise Refused("newer_edit_published")
        kept = [it for it in self.live if it not in same_prompt]
        floor = self._checked(new, kept)
        captured = self._captured(new, kept)
        kind = AdmissionKind.SUPERSEDE if same_prompt else AdmissionKind.ALIAS if lenders else AdmissionKind.NEW
        before = {context: self.decided(context, self.live) for it in kept for context in it.contexts}
        self.live = [*kept, new]
        self._check_promises(new, floor, before)
        superseded, overlapped = (tuple(it.edit_id for it in group) for group in (same_prompt, overlaps))
        return (kind, None, lenders[0] if lenders else None, superseded, overlapped, captured)

    def _checked(self, new: Prospect, kept: Sequence[Prospect]) -> float | None:
        """Return the new entry's floor, if its own prompts reach it and those that must not do not."""
        then = [*kept, new]
        if not new.anchors:
            if any(self.anchored(context, kept).fires for context in new.contexts):
                raise Refused("key_not_matched")
            if any(self.open(context, then).fires is not new for context in new.contexts):
                raise Refused("key_not_matched")
            if any(self.open(context, then).fires is new for context in new.foreign):
                raise Refused("must_not_fire_fires")
            return None
        reached = [told.score for context in new.foreign if (told := self.anchored(context, then)).best is new]
        if any(score >= HIGHEST for score in reached):
            raise Refused("must_not_fire_fires")
        if reached:
            self.floors[new.sequence] = min(HIGHEST, max(reached) + FLOOR_MARGIN)
        if any(self.anchored(context, then).fires is not new for context in new.contexts):
            raise Refused("key_not_matched")
        return self.floors.get(new.sequence)

    def _captured(self, new: Prospect, kept: Sequence[Prospect]) -> tuple[tuple[str, KeyContext], ...]:
        found = []
        for owner in sorted(kept, key=_sequence):
            for context in owner.contexts if new.anchors or not owner.anchors else ():
                if new.anchors:
                    before, after = self.decided(context, self.live), self.decided(context, [*kept, new])
                else:
                    before, after = self.open(context, self.live).fires, self.open(context, [*kept, new]).fires
                if after is new:
                    if owner.target_ids != new.target_ids:
                        raise Refused("earlier_entry_silenced")
                    found.append((owner.edit_id, KeyContext(context.prompt_ids, context.span)))
                elif before is not None and (after is None or after.target_ids != before.target_ids):
                    raise Refused("earlier_entry_silenced")
        return tuple(found)

    def _check_promises(self, new: Prospect, floor: float | None, before: dict[EditContext, Prospect | None]) -> None:
        """Whatever the rules are: what is published answers, what must not fire does not, what answered still does."""
        assert self.floors.get(new.sequence) == floor
        assert all(self.decided(context, self.live) is new for context in new.contexts)
        assert all(self.decided(context, self.live) is not new for context in new.foreign)
        for context, earlier in before.items():
            if earlier is not None:
                now = self.decided(context, self.live)
                assert now is not None
                assert now.target_ids == earlier.target_ids


def outcome_of(verdict: Verdict) -> Outcome:
    named = tuple((it.edit_id, it.context) for it in verdict.captured)
    return (verdict.kind, verdict.same_as, verdict.alias_of, verdict.supersedes, verdict.overlaps, named)


def _says(held: Prospect, new: Prospect) -> bool:
    """Whether an entry holds in the paraphrases and with the names of a new edit."""
    held_texts = {(it.prompt_ids, it.masked) for it in held.contexts}
    wanted = {(it.prompt_ids, it.masked) for it in new.contexts if normalise_prompt(it.text) != new.normalised_prompt}
    return wanted <= held_texts and bool(held.anchors) == bool(new.anchors) and set(new.anchors) <= set(held.anchors)


def _runs(numbers: Collection[int]) -> Places:
    made: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if made and made[-1][1] == number:
            made[-1] = (made[-1][0], number + 1)
        else:
            made.append((number, number + 1))
    return tuple(made)


def _sequence(it: Prospect) -> int:
    return it.sequence
