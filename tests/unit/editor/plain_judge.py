"""Edits made of bare numbers, and the plain rules that they are judged by: a fresh key table for every one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch.nn import functional as F

from horen_vllm.artifact import EntryArtifact, EntryManifest, KeyContext
from horen_vllm.core.admission import AdmissionKind, Candidate, Existing, admit
from horen_vllm.core.match import KeyTable, route
from horen_vllm.core.presets import MethodParameters, ValueMode, preset_parameters
from horen_vllm.editor.codebook.book import EditorCodebook, Entry
from horen_vllm.editor.codebook.judge import Judge
from horen_vllm.editor.codebook.prospect import Prospect
from horen_vllm.editor.contexts import EditContext, PromptForm
from horen_vllm.editor.failure import EditFailed
from horen_vllm.editor.keying import Keying
from horen_vllm.ids import EditId
from horen_vllm.registry.models import EntryRef

WIDTH = 12
COSINE = preset_parameters("cosine", "tiny", threshold=0.9)
PRESETS = (
    COSINE,
    replace(COSINE, threshold=0.5),
    preset_parameters("horen-paper", "tiny", threshold=0.9),
    preset_parameters("horen-reference", "tiny", threshold=0.9),
    replace(preset_parameters("horen-reference", "tiny", threshold=0.9), steps=3),
)
Outcome = tuple[object, ...]


def context(number: int) -> EditContext:
    return EditContext(PromptForm.PLAIN, f"prompt {number}", (7, number), (0, 2))


def prospect(
    sequence: int,
    target: int,
    keys: torch.Tensor,
    *,
    prompt: str | None = None,
    contexts: Sequence[int] | None = None,
    foreign: torch.Tensor | None = None,
) -> Prospect:
    """An edit with one context a key; contexts are its own unless numbers are given."""
    numbers = range(1000 * sequence, 1000 * sequence + len(keys)) if contexts is None else contexts
    others = torch.empty(0, keys.shape[1]) if foreign is None else foreign
    return Prospect(
        edit_id=EditId(f"e{sequence}"),
        sequence=sequence,
        normalised_prompt=prompt or f"p{sequence}",
        target_ids=(target,),
        contexts=tuple(map(context, numbers)),
        keys=keys,
        foreign=tuple(context(-1 - index) for index in range(len(others))),
        foreign_queries=others,
    )


def entry(of: Prospect) -> Entry:
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
        contexts=tuple(KeyContext(item.prompt_ids, item.span) for item in of.contexts),
    )
    ref = EntryRef(edit_id=of.edit_id, sequence=of.sequence, artifact=of.edit_id)
    return Entry(ref, EntryArtifact(keys=of.keys, values=torch.zeros(1, 2), manifest=manifest))


def book_of(parameters: MethodParameters, *entries: Prospect) -> EditorCodebook:
    book = EditorCodebook(Keying(parameters), WIDTH, Stored().load)
    for item in entries:
        book.add(entry(item))
    return book


def judged(book: EditorCodebook, candidate: Prospect) -> Outcome:
    return outcome(Judge(book, [candidate]), 0)


def outcome(judge: Judge, index: int) -> Outcome:
    try:
        verdict = judge.verdict(index)
    except EditFailed as exc:
        return (exc.code,)
    named = tuple((item.edit_id, item.context) for item in verdict.captured)
    return (verdict.kind, verdict.same_as, verdict.alias_of, verdict.supersedes, verdict.overlaps, named)


def axis(index: int) -> torch.Tensor:
    return torch.eye(WIDTH)[index]


def turned(degrees: float, *, towards: int = 1) -> torch.Tensor:
    """A key so many degrees away from axis 0."""
    angle = math.radians(degrees)
    return math.cos(angle) * axis(0) + math.sin(angle) * axis(towards)


class Stored:
    """The files of entries."""

    def __init__(self) -> None:
        self.artifacts: dict[str, EntryArtifact] = {}

    def put(self, item: Prospect) -> Entry:
        made = entry(item)
        self.artifacts[made.ref.artifact] = made.artifact
        return made

    def load(self, ref: EntryRef) -> EntryArtifact:
        return self.artifacts[ref.artifact]


@dataclass
class Plain:
    """The same rules, slowly: a new table for every question, all earlier keys routed before and after."""

    parameters: MethodParameters
    live: list[Prospect] = field(default_factory=list)

    def table(self, entries: Sequence[Prospect]) -> KeyTable:
        newest: dict[bytes, int] = {}
        for index in sorted(range(len(entries)), key=lambda index: entries[index].sequence):
            newest |= {key.numpy().tobytes(): index for key in entries[index].keys}
        pairs = {
            key.numpy().tobytes(): (key, index)
            for index, item in enumerate(entries)
            for key in item.keys
            if newest[key.numpy().tobytes()] == index
        }.values()
        return KeyTable(
            torch.stack([key for key, _ in pairs]) if pairs else torch.empty(0, WIDTH),
            torch.tensor([index for _, index in pairs], dtype=torch.int64),
            torch.tensor([item.sequence for item in entries], dtype=torch.int64),
        )

    def routed(self, queries: torch.Tensor, entries: Sequence[Prospect]) -> list[Prospect | None]:
        decisions = route(queries, self.table(entries), self.parameters)
        return [None if decision.entry is None else entries[decision.entry] for decision in decisions]

    def judged(self, new: Prospect) -> Outcome:
        existing = [Existing(it.edit_id, it.sequence, it.normalised_prompt, it.target_ids) for it in self.live]
        candidate = Candidate(new.normalised_prompt, new.target_ids, new.keys)
        verdict = admit(candidate, existing, self.table(self.live), self.parameters)
        lender = None if verdict.entry is None else self.live[verdict.entry].edit_id
        if verdict.kind is AdmissionKind.SAME:
            said = next(item for item in self.live if item.edit_id == lender)
            if set(new.contexts) <= set(said.contexts):
                fires = any(found is said for found in self.routed(new.foreign_queries, self.live))
                return ("must_not_fire_fires",) if fires else (verdict.kind, lender, None, (), (), ())
            other = [
                replace(it, target_ids=(-1,)) if it.normalised_prompt == new.normalised_prompt else it
                for it in existing
            ]
            verdict = admit(candidate, other, self.table(self.live), self.parameters)
            lender = None
        supersedes, overlaps = (
            tuple(self.live[index].edit_id for index in indexes) for indexes in (verdict.supersedes, verdict.overlaps)
        )
        kept = [item for item in self.live if item.edit_id not in supersedes]
        if any(found is not new for found in self.routed(new.keys, [*kept, new])):
            return ("key_not_matched",)
        if any(found is new for found in self.routed(new.foreign_queries, [*kept, new])):
            return ("must_not_fire_fires",)
        captured = self.captured(new, kept)
        if captured is None:
            return ("earlier_entry_silenced",)
        return (verdict.kind, None, lender, supersedes, overlaps, captured)

    def captured(self, new: Prospect, kept: list[Prospect]) -> tuple[tuple[EditId, KeyContext], ...] | None:
        table = self.table(kept)
        before, after = self.routed(table.keys, self.live), self.routed(table.keys, [*kept, new])
        found = []
        for key, index, earlier, later in zip(table.keys, table.owners.tolist(), before, after, strict=True):
            owner = kept[index]
            if later is new:
                if owner.target_ids != new.target_ids:
                    return None
                place = [torch.equal(key, other) for other in owner.keys].index(True)
                found.append((owner.sequence, place, owner))
            elif earlier is not None and (later is None or later.target_ids != earlier.target_ids):
                return None
        return tuple(
            (owner.edit_id, KeyContext(owner.contexts[place].prompt_ids, owner.contexts[place].span))
            for _, place, owner in sorted(found, key=lambda item: item[:2])
        )


def stream(seed: int, length: int, spread: float) -> list[Prospect]:
    """Edits around a few directions, with shared contexts whose keys differ in their last bits."""
    generator = torch.Generator().manual_seed(seed)

    def draw(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=generator))

    centres = F.normalize(torch.randn(5, WIDTH, generator=generator), dim=1)
    pool = centres[torch.arange(60) % 5] + spread * torch.randn(60, WIDTH, generator=generator) / WIDTH**0.5
    result = []
    for sequence in range(1, length + 1):
        numbers = list(dict.fromkeys(draw(60) for _ in range(1 + draw(3))))
        noise = 1e-7 * torch.randn(len(numbers), WIDTH, generator=generator)
        foreign = F.normalize(pool[[draw(60) for _ in range(draw(3) // 2)]], dim=1)
        keys = F.normalize(pool[numbers] + noise, dim=1)
        prompt = f"p{numbers[0]}"
        result.append(prospect(sequence, draw(3), keys, prompt=prompt, contexts=numbers, foreign=foreign))
    return result
