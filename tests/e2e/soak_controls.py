"""Negative controls: the same dialogue with the prefix cache's rules in force, and with each of them taken away.

If taking a rule away changed nothing, the soak would not be looking where the rule matters.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from horen_vllm.errors import HorenError
from horen_vllm.plugin import site as edit_site
from tests.e2e.oracle import Oracle
from tests.e2e.soak_books import CODEBOOKS, Library
from tests.e2e.soak_engine import SteppedEngine
from tests.e2e.soak_load import Ask, Load, chat_turn
from tests.e2e.soak_updates import Updates
from tests.e2e.soak_verdict import Judge

SEED = 77
ANSWER_TOKENS = 40


def controls(llm: Any, oracle: Oracle, folder: Path) -> dict[str, int | str]:
    """Return how many responses were wrong under each rule set, and how many of the edited turns matched.

    The last one ends the engine: the worker refuses the step in which the missing cap shows, and its words are kept.
    """
    counts: dict[str, int | str] = {}
    for name, rules in RULES.items():
        assert llm.reset_prefix_cache()
        with rules():
            judge = _dialogue(llm, oracle, folder)
        counts[name] = len(judge.wrong)
        counts["matched"] = judge.counts["matched"]
    try:
        with _without_cap():
            _dialogue(llm, oracle, folder)
    except HorenError as refusal:
        counts["cap off, worker watching"] = refusal.message
    return counts


def _dialogue(llm: Any, oracle: Oracle, folder: Path) -> Judge:
    engine = SteppedEngine(llm)
    load = Load(SEED, dict.fromkeys(CODEBOOKS, 0.6))
    library = Library(oracle, load.topics, load.prefixes, SEED)
    updates = Updates(engine, library, folder, SEED, rate=0.0)
    updates.open()
    judge = Judge(oracle, {name: shelf.revisions for name, shelf in library.shelves.items()})
    name = CODEBOOKS[0]
    ratio = library.shelves[name].style.template.ratio
    for topic in load.topics[-6:]:
        prompt, span = chat_turn(load.prefixes[-1], topic.tokens)
        first = Ask(prompt, span, name, ANSWER_TOKENS, ratio=ratio, ignore_eos=True, logprobs=2)
        [edited] = engine.complete([first])
        # The same prompt again: all of it lies in cached blocks, the query window too.
        [again] = engine.complete([first])
        history, later_span = chat_turn((*prompt, *edited.choices[0].tokens), topic.tokens[:4])
        clean = replace(first, prompt=history, span=None, codebook=None, max_tokens=8)
        tagged = replace(first, prompt=history, span=later_span, max_tokens=8)
        going_on = replace(clean, prompt=(*prompt, *edited.choices[0].tokens))
        for sent in (edited, again, *engine.complete([clean, tagged, going_on])):
            judge.judge(sent)
    engine.settle()
    updates.close()
    return judge


@contextmanager
def _in_force() -> Iterator[None]:
    yield


@contextmanager
def _without_cap() -> Iterator[None]:
    """Let routed requests hit cached blocks inside their query window."""
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    with patch.object(KVCacheManager, "get_computed_blocks", KVCacheManager.get_computed_blocks.__wrapped__):
        yield


@contextmanager
def _without_cap_unnoticed() -> Iterator[None]:
    with _without_cap(), patch.object(edit_site, "check_coverage", lambda *_: None):
        yield


@contextmanager
def _without_taint() -> Iterator[None]:
    """Give blocks that an edit has touched the hash of clean ones."""
    from vllm.v1.core import kv_cache_utils

    original = kv_cache_utils.generate_block_hash_extra_keys.__wrapped__
    with patch.object(kv_cache_utils, "generate_block_hash_extra_keys", original):
        yield


RULES: dict[str, Callable[[], Any]] = {
    "rules in force": _in_force,
    "cap off": _without_cap_unnoticed,
    "taint off": _without_taint,
    "rules in force again": _in_force,
}
