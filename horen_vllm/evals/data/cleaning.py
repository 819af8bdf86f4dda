"""From the cases of a file's rows to those of a stream of edits: each prompt once, each question once."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.evals.data.defects import DefectKind, DefectLog
from horen_vllm.evals.data.layouts.hops import Fact, HopProbe
from horen_vllm.evals.data.layouts.negatives import is_named
from horen_vllm.evals.data.row import shown
from horen_vllm.evals.records import Case, Probe, ProbeKind

_NEGATIVES: Final = frozenset({ProbeKind.UNRELATED, ProbeKind.NEAR, ProbeKind.SAME_SUBJECT})


@dataclass(slots=True)
class Gathering:
    """Cases by row, until enough are there; prompts are compared as codebooks compare them.

    Parameters
    ----------
    log
        Where defects are counted.
    place
        What a case's `line` counts: ``line`` or ``row``.
    limit
        Most cases; None for all.
    keep_contradictory
        Whether edits that contradict an earlier one are kept, too.
    """

    log: DefectLog
    place: str
    limit: int | None
    keep_contradictory: bool
    cases: list[Case] = field(default_factory=list)
    _targets: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """Normalised prompt to the targets that it stands for, each with its place in `cases`."""

    @property
    def is_full(self) -> bool:
        """Whether no further edit has a place."""
        return self.limit is not None and len(self.cases) >= self.limit

    def add(self, row: Iterable[Case]) -> None:
        """Take the cases of one row; its questions go to the one of them that is last in the stream.

        Where an edit of the row has no place in the stream, what is asked about all of them is left out.
        """
        edits = tuple(row)
        places = [self._place(edit) for edit in edits]
        probes = tuple(probe for edit in edits for probe in edit.probes)
        placed = [place for place in places if place is not None]
        if placed and len(placed) == len(edits):
            self._give(max(placed), probes)
        elif placed and not self.is_full:
            for probe in probes:
                self.log.add(DefectKind.LOST_PROBES, self._example(edits[0], probe.prompt))

    def _give(self, place: int, probes: Iterable[Probe]) -> None:
        """Add questions to a case; what it got from another row of the same edit it has already."""
        case = self.cases[place]
        known = {(probe.kind, normalise_prompt(probe.prompt), probe.targets) for probe in case.probes}
        new = (it for it in probes if (it.kind, normalise_prompt(it.prompt), it.targets) not in known)
        self.cases[place] = replace(case, probes=(*case.probes, *new))

    def _place(self, case: Case) -> int | None:
        """Return where the edit stands in the stream, after adding it if it is new; None when it is left out."""
        known = self._targets[normalise_prompt(case.prompt)]
        place = known.get(case.target)
        if place is not None:
            earlier = self.cases[place]
            self.log.add(DefectKind.DUPLICATE_EDIT, self._example(case, f"as {self.place} {earlier.line}"))
            known_texts = set(map(normalise_prompt, earlier.rephrases))
            new = (text for text in case.rephrases if normalise_prompt(text) not in known_texts)
            self.cases[place] = replace(earlier, rephrases=(*earlier.rephrases, *new))
            return place
        if self.is_full:
            return None
        if known:
            what = f"{shown(case.target)} after {shown(next(iter(known)))}: {shown(case.prompt)}"
            self.log.add(DefectKind.CONTRADICTORY_EDIT, self._example(case, what))
            if not self.keep_contradictory:
                return None
        known[case.target] = len(self.cases)
        self.cases.append(replace(case, probes=()))
        return known[case.target]

    def _example(self, case: Case, what: str) -> str:
        return f"{self.place} {case.line}: {what}"


class Tidying:
    """Takes out of cases what cannot be asked, now that all edits of the stream are known."""

    def __init__(self, cases: Iterable[Case], log: DefectLog, place: str) -> None:
        self._cases = tuple(cases)
        self._log, self._place = log, place
        self._ids: Counter[str] = Counter()
        self._prompts: dict[str, set[str]] = defaultdict(set)
        self._texts: dict[str, set[str]] = defaultdict(set)
        for case in self._cases:
            self._prompts[normalise_prompt(case.prompt)].add(case.case_id)
            for text in (case.prompt, *case.rephrases):
                self._texts[normalise_prompt(text)].add(case.target)

    def tidied(self) -> Iterator[Case]:
        """Yield the cases in order."""
        for case in self._cases:
            own = {normalise_prompt(case.prompt)}
            rephrases = tuple(self._rephrases(case, own))
            yield replace(
                case,
                case_id=self._unique(case),
                subject=self._subject(case),
                rephrases=rephrases,
                probes=tuple(self._probes(case, own)),
            )

    def _unique(self, case: Case) -> str:
        self._ids[case.case_id] += 1
        if self._ids[case.case_id] == 1:
            return case.case_id
        self._add(DefectKind.DUPLICATE_ID, case, case.case_id)
        return f"{case.case_id}@{case.line}"

    def _subject(self, case: Case) -> str | None:
        if case.subject is None:
            return None
        if normalise_prompt(case.subject) in normalise_prompt(case.prompt) or is_named(case.subject, case.prompt):
            return case.subject
        self._add(DefectKind.SUBJECT_NOT_IN_PROMPT, case, f"{shown(case.subject)} in {shown(case.prompt)}")
        return None

    def _rephrases(self, case: Case, own: set[str]) -> Iterator[str]:
        """Yield the rephrases that can be asked; `own` holds the case's prompt, and then its rephrases, too."""
        prompt = normalise_prompt(case.prompt)
        for text in case.rephrases:
            key = normalise_prompt(text)
            if key == prompt:
                self._add(DefectKind.REPHRASE_IS_PROMPT, case, shown(text))
            elif key in own:
                self._add(DefectKind.DUPLICATE_REPHRASE, case, shown(text))
            elif len(self._texts[key]) > 1:
                self._add(DefectKind.CONTRADICTORY_REPHRASE, case, shown(text))
            elif key in self._prompts:
                self._add(DefectKind.REPHRASE_IS_OTHER_EDIT, case, shown(text))
            else:
                own.add(key)
                yield text

    def _probes(self, case: Case, own: set[str]) -> Iterator[Probe]:
        found: dict[tuple[ProbeKind, str], Probe] = {}
        for probe in case.probes:
            text = normalise_prompt(probe.prompt)
            same = found.get((probe.kind, text))
            if same is not None:
                self._add(DefectKind.DUPLICATE_PROBE, case, shown(probe.prompt))
                targets = tuple(dict.fromkeys((*same.targets, *probe.targets)))
                found[probe.kind, text] = replace(same, targets=targets)
            elif self._can_be_asked(case, probe, text, own):
                found[probe.kind, text] = Probe(kind=probe.kind, prompt=probe.prompt, targets=probe.targets)
        yield from found.values()

    def _can_be_asked(self, case: Case, probe: Probe, text: str, own: set[str]) -> bool:
        if isinstance(probe, HopProbe) and not all(map(self._holds, probe.facts)):
            self._add(DefectKind.CONTRADICTED_HOP, case, shown(probe.prompt))
            return False
        if probe.kind in _NEGATIVES and text in own:
            self._add(DefectKind.NEGATIVE_IS_OWN_EDIT, case, shown(probe.prompt))
            return False
        if probe.kind in _NEGATIVES and text in self._texts:
            self._add(DefectKind.NEGATIVE_IS_OTHER_EDIT, case, shown(probe.prompt))
        return True

    def _holds(self, fact: Fact) -> bool:
        """Whether no edit of the stream gives a step another answer."""
        answers = set(map(normalise_prompt, fact.answers))
        edited = [self._texts.get(normalise_prompt(text), ()) for text in fact.wordings]
        return all(not targets or answers & set(map(normalise_prompt, targets)) for targets in edited)

    def _add(self, kind: DefectKind, case: Case, what: str) -> None:
        self._log.add(kind, f"{self._place} {case.line}: {what}")
