"""The judge: whether an edit can be published in its codebook, and as what, before it has a value.

Applies the upsert rules of `core.admission`, and looks at every prompt that the edit could take from another entry
or that it must not take; does not know values, models or the registry.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Final

import torch

from horen_vllm.core.admission import Admission, AdmissionKind, admission, normalise_prompt
from horen_vllm.editor.codebook.arena import NOBODY, KeyArena
from horen_vllm.editor.codebook.book import EditorCodebook
from horen_vllm.editor.codebook.context_names import context_name
from horen_vllm.editor.codebook.false_fires import FLOOR_MARGIN, LOWEST
from horen_vllm.editor.codebook.lineup import TIE_MARGIN, Lineup
from horen_vllm.editor.codebook.nearest import nearest_rows
from horen_vllm.editor.codebook.prospect import Captured, Prospect, Verdict, canonical
from horen_vllm.editor.codebook.subject_trial import SubjectTrial
from horen_vllm.editor.codebook.subjects import SubjectField
from horen_vllm.editor.codebook.trial import Trial, named
from horen_vllm.editor.contexts import PromptForm
from horen_vllm.editor.failure import EditFailed

_LATITUDE: Final = 0.05
"""How far a threshold that follows the codebook may come down before its keys are surveyed again."""
_TWINS: Final = 0.999
"""Cosine over which every key is looked at: keys that can tie with a new one, or with each other there, are nearer."""


class Judge:
    """Judges a batch of edits of one codebook, one after the other, while the codebook grows.

    Without refinement the whole batch is scored against the codebook in one product at the start, and a verdict reads
    the few rows that can matter to it; what is added later is read as it comes. With refinement every key has a part
    in every decision, and a verdict reads them all. Either way a verdict is what `core.match` and `core.admission`
    give for the codebook as it is, without and with the edit, but that scores nearer than `lineup.TIE_MARGIN` are
    equal; so neither the batch nor the order of the keys in memory decides.

    Parameters
    ----------
    book
        The codebook.
    prospects
        The edits of the batch, in the order in which they are to be judged.
    """

    def __init__(self, book: EditorCodebook, prospects: Sequence[Prospect]) -> None:
        self._book = book
        self.prospects = canonical(book, prospects)
        """The edits with the keys that their entries are to have; see `prospect.canonical`."""
        self._survey()

    def verdict(self, index: int) -> Verdict:
        """Judge a prospect against the codebook as it is now.

        Raises
        ------
        EditFailed
            ``newer_edit_published``, when it would replace an edit that was submitted after it;
            ``key_not_matched``, when one of its own contexts would not reach it; ``must_not_fire_fires``, also when the
            entry that says the same already would answer such a prompt;
            ``earlier_entry_silenced``, when a context of an earlier entry would be answered otherwise than now: it
            would go to this edit, which has another target, or reach nothing, or an entry with another target.
        """
        prospect = self.prospects[index]
        if prospect.anchors and self._book.subjects is not None:
            return self._subject_verdict(prospect, self._book.subjects)
        same_prompt = self._book.same_prompt(prospect.normalised_prompt)
        threshold = self._threshold(same_prompt, index)
        trial = Trial(self._book, prospect, self._lineup(index, same_prompt, threshold), threshold)
        admitted = self._admitted(prospect, trial.basins)
        if admitted.kind is AdmissionKind.SAME:
            self._check_same(prospect, admitted)
            return self._verdict(admitted)
        self._check_age(prospect, admitted.supersedes)
        self._check_subjects(prospect, admitted.supersedes)
        floor = trial.check_routing()
        return replace(self._verdict(admitted, trial.captured()), threshold=self._moved(threshold), floor=floor)

    def _subject_verdict(self, prospect: Prospect, subjects: SubjectField) -> Verdict:
        trial = SubjectTrial(self._book, subjects, prospect)
        admitted = self._admitted(prospect, trial.basins)
        if admitted.kind is AdmissionKind.SAME:
            assert admitted.entry is not None, "SAME names the entry"
            trial.check_silent(admitted.entry)
            return self._verdict(admitted)
        self._check_age(prospect, admitted.supersedes)
        floor = trial.floor(admitted.supersedes)
        trial.check_routing(admitted.supersedes, floor)
        captured = trial.captured(admitted.supersedes)
        threshold = self._moved(self._threshold(admitted.supersedes))
        return replace(self._verdict(admitted, captured), threshold=threshold, floor=floor)

    def _admitted(self, prospect: Prospect, basins: Callable[[], Sequence[int]]) -> Admission:
        return admission(
            prospect.target_ids,
            self._book.existing,
            self._book.same_prompt(prospect.normalised_prompt),
            basins,
            lambda entry: (
                self._book.holds(entry, _paraphrases(prospect))
                and self._speaks_of(entry, prospect)
                and self._keeps_silent(entry, prospect)
            ),
        )

    def _keeps_silent(self, entry: int, prospect: Prospect) -> bool:
        """Return whether an entry needs no floor, or no other one, for the prospect's must-not-fire prompts.

        Where entries have no floors of their own, it is for `_check_same` to say what is wrong.
        """
        subjects, book = self._book.subjects, self._book
        if prospect.anchors and subjects is not None:
            rulings = [subjects.rule(context.as_key_context()) for context in prospect.foreign]
            return all(ruling.entry != entry for ruling in rulings)
        if book.false_fires is None or not len(prospect.foreign):
            return True
        lineup = Lineup(book.arena, prospect.keys, prospect.sequence, {}, None, book.floors)
        found = lineup.now.rule(prospect.foreign_queries, book.parameters)
        most = max(book.floors.get(entry, LOWEST), LOWEST)
        return all(best != entry or score <= most for best, score in zip(found.best, found.score, strict=True))

    def _speaks_of(self, entry: int, prospect: Prospect) -> bool:
        """Return whether an entry fires with every name of the prospect's subject, or both without any."""
        held = () if self._book.subjects is None else self._book.subjects.anchors_of(entry)
        return bool(held) == bool(prospect.anchors) and set(prospect.anchors) <= set(held)

    def _threshold(self, leaving: Sequence[int], index: int | None = None) -> float:
        """Return the threshold without the entries `leaving`, and with the keys of a prospect."""
        false_fires = self._book.false_fires
        if false_fires is None:
            return self._book.parameters.threshold
        rows = {row for sequence in leaving for row in self._book.rows(sequence)}
        arena = self._book.arena
        gone = [row for row in rows if arena.newest(row, leaving) == NOBODY]
        columns = None if index is None else self._columns[:, self._places[index]]
        return false_fires.threshold(columns, gone)

    def _moved(self, threshold: float) -> float | None:
        return None if self._book.false_fires is None else threshold

    def _check_subjects(self, prospect: Prospect, supersedes: Sequence[int]) -> None:
        """Refuse an edit without a subject whose prompts name another edit's, which would answer them."""
        subjects = self._book.subjects
        for context in prospect.contexts if subjects is not None else ():
            assert subjects is not None
            ruling = subjects.rule(context.as_key_context(), without=supersedes)
            if ruling.entry != NOBODY:
                message = (
                    f"{named(context)} names the subject of edit {self._book.edit_id(ruling.entry)}, which answers it "
                    f"with score {ruling.score:.4f}: give this edit its subject, too."
                )
                raise EditFailed(message, code="key_not_matched")

    def _check_same(self, prospect: Prospect, admitted: Admission) -> None:
        assert admitted.entry is not None, "SAME names the entry"
        if len(prospect.foreign):
            # Every row: the line-up of a new entry has those that are near its keys, and these are another's.
            lineup = Lineup(self._book.arena, prospect.keys, prospect.sequence, {}, None, self._book.floors)
            Trial(self._book, prospect, lineup, self._book.parameters.threshold).check_silent(admitted.entry)

    def _check_age(self, prospect: Prospect, supersedes: Sequence[int]) -> None:
        newer = [self._book.edit_id(sequence) for sequence in supersedes if sequence > prospect.sequence]
        if newer:
            message = f"edit {newer[0]} of the same prompt was submitted after this one and is published already."
            raise EditFailed(message, code="newer_edit_published")

    def _verdict(self, admitted: Admission, captured: tuple[Captured, ...] = ()) -> Verdict:
        entry = None if admitted.entry is None else self._book.edit_id(admitted.entry)
        return Verdict(
            kind=admitted.kind,
            same_as=entry if admitted.kind is AdmissionKind.SAME else None,
            alias_of=entry if admitted.kind is AdmissionKind.ALIAS else None,
            supersedes=tuple(map(self._book.edit_id, admitted.supersedes)),
            overlaps=tuple(map(self._book.edit_id, admitted.overlaps)),
            captured=captured,
        )

    def _survey(self, lowest: float | None = None) -> None:
        """Score every context of the batch against the codebook as it stands, for thresholds down to about `lowest`."""
        arena = self._book.arena
        self._layout, self._surveyed = arena.layout, len(arena)
        ends = list(accumulate((len(prospect.keys) for prospect in self.prospects), initial=0))
        self._places = [slice(first, last) for first, last in pairwise(ends)]
        lowest = self._book.parameters.threshold if lowest is None else lowest
        self._surveyed_at = lowest - _LATITUDE if self._book.false_fires is not None else lowest
        if self._book.false_fires is not None and self.prospects:
            self._columns = self._book.false_fires.columns(torch.cat([it.keys for it in self.prospects]))
        if self.prospects and not self._book.parameters.steps:
            floor = min(self._surveyed_at, _TWINS)
            queries = torch.cat([prospect.keys for prospect in self.prospects])
            self._nearest = nearest_rows(queries, arena.keys, floor)

    def _lineup(self, index: int, same_prompt: tuple[int, ...], threshold: float) -> Lineup:
        arena, prospect = self._book.arena, self.prospects[index]
        leaving = {sequence: self._book.rows(sequence) for sequence in same_prompt}
        if self._book.parameters.steps:
            return Lineup(arena, prospect.keys, prospect.sequence, leaving, None, self._book.floors)
        lowest = min(threshold, self._book.parameters.threshold)
        if self._layout != arena.layout or lowest < self._surveyed_at:
            self._survey(lowest)
        place = self._places[index]
        listed = self._nearest.rows[place].flatten()
        near = torch.cat([listed[listed >= 0], torch.arange(self._surveyed, len(arena))])
        lineup = Lineup(arena, prospect.keys, prospect.sequence, leaving, near, self._book.floors)
        if self._settles(prospect, lineup, self._nearest.bound[place], lowest):
            return lineup
        near = _rivals(arena, prospect, [row for rows in leaving.values() for row in rows])
        return Lineup(arena, prospect.keys, prospect.sequence, leaving, near, self._book.floors)

    def _settles(self, prospect: Prospect, lineup: Lineup, bound: torch.Tensor, threshold: float) -> bool:
        """Return whether no row that is not listed can change a decision at `threshold` or above."""
        best = torch.tensor(lineup.now.rule(prospect.keys, self._book.parameters).score)
        if not ((bound <= _TWINS) & ((bound <= threshold) | (bound < best - TIE_MARGIN))).all():
            return False
        # A prompt that scores too little with the new keys cannot fire them, whoever else it reaches. Where the
        # threshold may come down, what it scores becomes a floor, and who else it reaches counts.
        enough = LOWEST - FLOOR_MARGIN if self._book.false_fires is not None else threshold
        return bool(((prospect.foreign_queries @ prospect.keys.T) <= enough).all())


def _paraphrases(prospect: Prospect) -> list[bytes]:
    """Return the names of the contexts that are not the prompt's own, which may be spelled in another way."""
    return [
        context_name(context.as_key_context())
        for context in prospect.contexts
        if context.form is not PromptForm.PREFIXED and normalise_prompt(context.text) != prospect.normalised_prompt
    ]


def _rivals(arena: KeyArena, prospect: Prospect, leaving: Sequence[int]) -> torch.Tensor:
    """Return the rows that can decide a prompt of the edit: those as good as the best that stays, and all twins."""
    stays = arena.owners != NOBODY
    stays[torch.tensor(leaving, dtype=torch.int64)] = False
    matters = torch.zeros_like(stays)
    if not len(stays):
        return matters.nonzero()[:, 0]
    for query in (*prospect.keys, *prospect.foreign_queries):
        scores = arena.keys @ query
        best = torch.where(stays, scores, -torch.inf).amax()
        matters |= scores >= best.clamp_max(_TWINS) - 2 * TIE_MARGIN
    return matters.nonzero()[:, 0]
