"""Edits with subjects made of random numbers, and the plain rules that they are judged by: every entry, every time.

No model: the query of a prompt and a mask is drawn by both. Words are read from the bytes of the prompt.
"""

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch.nn import functional as F

from horen_vllm.artifact import EntryArtifact, EntryManifest, KeyContext
from horen_vllm.core.admission import AdmissionKind, normalise_prompt
from horen_vllm.core.presets import MethodParameters, SpanMode, ValueMode
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.core.words import Word, plain_words, words_of
from horen_vllm.editor.codebook.book import EditorCodebook, Entry
from horen_vllm.editor.codebook.false_fires import FLOOR_MARGIN, HIGHEST
from horen_vllm.editor.codebook.lineup import TIE_MARGIN
from horen_vllm.editor.codebook.prospect import Prospect, Verdict
from horen_vllm.editor.codebook.subjects import SubjectField
from horen_vllm.editor.contexts import EditContext, PromptForm
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.spoken import Reader
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EntryRef
from tests.unit.editor.conftest import byte_tokenizer

WIDTH = 12
SUBJECTS = ("Paris", "Paris Hilton", "Hilton", "São Paulo")
TEMPLATES = (
    ("Who runs {}?", "{} is run by", "In {}, who is at the top of everything?"),
    ("When was {} born?", "{} came into the world in the year", "The birth of {}:"),
    ("What do you know of {} and Hilton?", "{}: tell me all", "{}"),
)
"""Ways to ask for each of a few things."""
MASKED = MethodParameters(
    preset="calibrated",
    threshold=0.8,
    span=SpanMode.CONTENT,
    anchors=True,
    anchored_threshold=0.5,
    mask_subject=True,
)
_TOKENIZER = byte_tokenizer()


def space_of_words() -> RoutingSpace:
    """Return a space with words; its numbers are never used."""
    return RoutingSpace(torch.zeros(1), torch.zeros(WIDTH - 4, 1), torch.ones(4), 0.5, 1, 4)


@cache
def text_of(prompt_ids: tuple[int, ...]) -> str:
    return str(_TOKENIZER.decode(list(prompt_ids)))


@cache
def said_in(prompt_ids: tuple[int, ...]) -> tuple[Word, ...]:
    return words_of(text_of(prompt_ids))


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(_TOKENIZER.encode(text, add_special_tokens=False))


Places = tuple[tuple[int, int], ...]


@dataclass
class World:
    """Queries by prompt, tokens left out and words that are left.

    Attributes
    ----------
    keying
        Of the codebook.
    seed
        Of all queries.
    """

    keying: Keying
    seed: int
    asked: int = 0
    _queries: dict[object, torch.Tensor] = field(default_factory=dict, repr=False)

    def query(self, context: KeyContext, words: Sequence[str]) -> torch.Tensor:
        what = context, tuple(words)
        if what not in self._queries:
            self._queries[what] = self._query(context, words)
        return self._queries[what]

    def _query(self, context: KeyContext, words: Sequence[str]) -> torch.Tensor:
        left = [at for first, stop in context.masked for at in range(first, stop)]
        said = tuple(words) if self.keying.reads_words else ()
        drawn = self._drawn((context.prompt_ids, left, said))
        return F.normalize(self._drawn(self._thing(context)) + 0.8 * drawn, dim=0)

    def ask(self, contexts: Sequence[KeyContext], words: Sequence[Sequence[str]]) -> torch.Tensor:
        self.asked += len(contexts)
        return torch.stack([self.query(context, said) for context, said in zip(contexts, words, strict=True)])

    def reader(self) -> Reader:
        return Reader(_TOKENIZER, self.keying)

    def book(self, load: "Files") -> EditorCodebook:
        return EditorCodebook(self.keying, WIDTH, load.load, subjects=self.field())

    def field(self) -> SubjectField:
        return SubjectField(self.keying.parameters, self.reader(), self.ask)

    def context(self, text: str, anchors: Sequence[tuple[str, ...]], *, own: bool = False) -> EditContext:
        ids = ids_of(text)
        return self.reader().spoken(EditContext(PromptForm.PLAIN, text, ids, (0, len(ids))), anchors, own=own)

    def _thing(self, context: KeyContext) -> int:
        text = text_of(context.prompt_ids)
        for thing, templates in enumerate(TEMPLATES):
            for template in templates:
                begin, end = template.split("{}")
                if text.startswith(begin) and text.endswith(end) and len(template) > 2:
                    return thing
        return 2

    def _drawn(self, what: object) -> torch.Tensor:
        digest = hashlib.blake2b(repr((self.seed, what)).encode(), digest_size=7).digest()
        return F.normalize(
            torch.randn(WIDTH, generator=torch.Generator().manual_seed(int.from_bytes(digest, "big"))), dim=0
        )


class Files:
    """The files of entries."""

    def __init__(self) -> None:
        self.artifacts: dict[str, EntryArtifact] = {}

    def load(self, ref: EntryRef) -> EntryArtifact:
        return self.artifacts[ref.artifact]

    def put(self, of: Prospect, floor: float | None) -> Entry:
        manifest = EntryManifest(
            edit_id=of.edit_id,
            fingerprint="f",
            site="s",
            value_mode=ValueMode.LAST,
            span=1,
            chunk=1,
            target_ids=of.target_ids,
            normalised_prompt=of.normalised_prompt,
            trained_end=False,
            loss=0.1,
            steps=1,
            contexts=tuple(context.as_key_context() for context in of.contexts),
            anchors=tuple(" ".join(anchor) for anchor in of.anchors),
            floor=floor,
        )
        ref = EntryRef(edit_id=of.edit_id, sequence=of.sequence, artifact=of.edit_id)
        self.artifacts[ref.artifact] = EntryArtifact(keys=of.keys, values=torch.zeros(1, 2), manifest=manifest)
        return Entry(ref, self.artifacts[ref.artifact])


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


def stream(world: World, length: int) -> list[Prospect]:
    """Edits on a few subjects that are parts of each other, in all manners."""
    generator = torch.Generator().manual_seed(world.seed)

    def draw(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=generator))

    def said(subject: str) -> tuple[int, str]:
        thing, way = draw(3), draw(3)
        return thing, TEMPLATES[thing][way].format(subject)

    result = []
    for sequence in range(1, length + 1):
        subject = SUBJECTS[draw(4)]
        thing, prompt = said(subject)
        texts = dict.fromkeys([prompt, *([TEMPLATES[thing][draw(3)].format(subject)] if draw(2) else [])])
        foreign = [said(SUBJECTS[draw(4)] if draw(2) else subject)[1] for _ in range(max(0, draw(4) - 1))]
        names = [subject, *(["Hilton"] if draw(6) == 0 else []), *(["Sao Paulo", "SP"] if draw(4) == 0 else [])]
        anchors = tuple(dict.fromkeys(plain_words(name) for name in names)) if draw(6) else ()
        contexts = tuple(world.context(text, anchors, own=True) for text in texts)
        others = tuple(world.context(text, anchors) for text in foreign)
        keys = world.ask([it.as_key_context() for it in contexts], [it.words for it in contexts])
        noise = 1e-7 * torch.randn(keys.shape, generator=generator)
        made = [world.query(it.as_key_context(), it.words) for it in others]
        result.append(
            Prospect(
                edit_id=EditId(f"e{sequence}"),
                sequence=sequence,
                normalised_prompt=normalise_prompt(prompt),
                target_ids=(draw(3),),
                contexts=contexts,
                keys=F.normalize(keys + noise, dim=1),
                foreign=others,
                foreign_queries=torch.stack(made) if made else torch.empty(0, WIDTH),
                anchors=anchors,
            )
        )
    return result


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
