"""The sides of `bench.method` on one codebook: the paper's loop in this process, and the server in its own.

Every measured answer is checked: the entry that fired must be the one of its prompt, on both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch.nn import functional as F

from bench.made_entries import EntryForm, write_pack
from bench.paper_serving import PlainBook, PlainServer
from bench.routing_books import RAW
from bench.smoke_engine import EngineProcess
from bench.smoke_load import Case, Served
from horen_vllm.core.presets import MethodParameters, preset_parameters

FINGERPRINT: Final = "bench"
_THRESHOLD: Final = 0.85
Prompt = list[int]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a side answered in one round.

    Attributes
    ----------
    seconds
        For all of them, prompts included.
    tokens
        Of each answer.
    routing_seconds
        Of the paper's loop; 0 for the server.
    floor_seconds
        What reading the weights once a token takes in the paper's process at that time; 0 for the server.
    """

    seconds: float
    tokens: list[list[int]]
    routing_seconds: float = 0.0
    floor_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Edited tokens a second."""
        return sum(map(len, self.tokens)) / self.seconds


@dataclass(frozen=True, slots=True)
class Book:
    """A codebook in which every prompt of the benchmark has an entry, and its name in the server.

    Attributes
    ----------
    owners
        The entry of each prompt, in order.
    """

    name: str
    plain: PlainBook
    owners: tuple[int, ...]


def paper_rule() -> MethodParameters:
    """Return what both sides route by: the paper's refinement and LLaMA's threshold, one value for the whole answer."""
    return replace(preset_parameters("horen-paper", "bench", _THRESHOLD), window_ratio=0.6)


def made_book(server: PlainServer, prompts: Sequence[Prompt], entries: int) -> Book:
    """Return a codebook with an entry for each prompt, whose key is the prompt's own query, and random ones between.

    Random keys have a mean cosine of 0.6 with each other, as raw ones of a real model have, around the prompts' mean.
    Values are as large as the layer's outputs.
    """
    if entries < len(prompts):
        raise ValueError(f"{entries} entries for {len(prompts)} prompts")
    generator = torch.Generator().manual_seed(entries)
    queries = torch.stack([server.query(prompt) for prompt in prompts])
    centre = F.normalize(queries.mean(dim=0), dim=0)
    keys = torch.randn(entries, queries.shape[1], generator=generator)
    for rows in torch.split(keys, 4096):
        rows.copy_(F.normalize(RAW.share**0.5 * centre + (1.0 - RAW.share) ** 0.5 * F.normalize(rows, dim=1), dim=1))
    owners = tuple(place * entries // len(prompts) for place in range(len(prompts)))
    keys[list(owners)] = queries
    values = torch.randn(entries, server.width, generator=generator) * server.output_rms(prompts[0])
    return Book(f"tenants/default/codebooks/n{entries}", PlainBook(keys, values), owners)


def bring(engine: EngineProcess, book: Book, rule: MethodParameters, answer: int, folder: Path) -> None:
    """Stage the codebook in the server, with values that are written at every token of an answer."""
    form = EntryForm.of(rule, answer, fingerprint=FINGERPRINT, site="bench")
    keys, values = book.plain.keys, book.plain.values
    entries = [form.entry(f"e{row}", keys[row : row + 1], values[row : row + 1]) for row in range(len(keys))]
    path = folder / "pack"
    sha256 = write_pack(path, entries)
    engine.call("apply_pack", book.name, path, sha256, rule, FINGERPRINT)
    path.unlink()


def ask_paper(server: PlainServer, book: Book, prompts: Sequence[Prompt], asked: Sequence[int], answer: int) -> Answers:
    """Ask some prompts by number, one after another.

    Raises
    ------
    RuntimeError
        When a forward pass did not choose the prompt's entry.
    """
    answers = [server.answer(prompts[number], answer) for number in asked]
    for number, found in zip(asked, answers, strict=True):
        if found.chosen != [book.owners[number]] * answer or len(found.tokens) != answer:
            raise RuntimeError(f"the paper's loop chose {set(found.chosen)} for entry {book.owners[number]}.")
    return Answers(
        sum(found.seconds for found in answers),
        [found.tokens for found in answers],
        sum(found.routing_seconds for found in answers),
        len(asked) * answer * server.weights_seconds(),
    )


def ask_server(
    engine: EngineProcess, book: Book, prompts: Sequence[Prompt], asked: Sequence[int], answer: int, concurrency: int
) -> Answers:
    """Ask some prompts by number, `concurrency` at a time.

    Raises
    ------
    RuntimeError
        When a request was answered by another entry than its prompt's, or by none.
    """
    cases = [Case(prompts[number], book.name, answer) for number in asked]
    seconds, served = 0.0, list[Served]()
    for first in range(0, len(cases), concurrency):
        took, some = engine.call("timed", cases[first : first + concurrency])
        seconds, served = seconds + took, served + some
    for number, found in zip(asked, served, strict=True):
        fired = (found.decision or {}).get("edit_id")
        if fired != f"e{book.owners[number]}" or len(found.tokens) != answer:
            raise RuntimeError(f"the server answered with {fired} for entry {book.owners[number]}.")
    return Answers(seconds, [found.tokens for found in served])


def require_changed(engine: EngineProcess, prompts: Sequence[Prompt], edited: Answers, answer: int) -> None:
    """Raise RuntimeError unless the clean model answers every prompt otherwise than it was edited to."""
    clean = engine.call("serve", [Case(prompt, None, answer) for prompt in prompts])
    same = sum(one.tokens == tokens for one, tokens in zip(clean, edited.tokens, strict=True))
    if same:
        raise RuntimeError(f"{same} of {len(prompts)} answers are the clean model's.")
