"""Edits with subjects made of random numbers, and where they are kept.

No model: the query of a prompt and a mask is drawn by both. Words are read from the bytes of the prompt.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch.nn import functional as F

from horen_vllm.artifact import EntryArtifact, EntryManifest, KeyContext
from horen_vllm.core.admission import normalise_prompt
from horen_vllm.core.presets import MethodParameters, SpanMode, ValueMode
from horen_vllm.core.routing import RoutingSpace
from horen_vllm.core.words import Word, plain_words, words_of
from horen_vllm.editor.codebook.book import EditorCodebook, Entry
from horen_vllm.editor.codebook.prospect import Prospect
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
