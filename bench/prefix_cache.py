"""What edited requests keep of the prefix cache: hit rates with and without the plugin, on the demo model.

``python -m bench.prefix_cache`` writes ``bench/results/prefix_cache.json``. Two loads: questions after long shared
system prompts, and chats of three turns. Each is served by vLLM without the plugin, then, with it, as clean
requests, as edited chat requests (the query span is the last question) and as edited completions (it is the whole
prompt). Every edited request matches: the codebook has one entry and a threshold of -1.
"""

import argparse
import gc
import hashlib
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional as F

from bench.provenance import provenance, write_result
from horen_vllm.artifact import EntryArtifact, EntryManifest
from horen_vllm.core.architectures import default_site
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.pack import build_pack, encode_pack
from horen_vllm.plugin.tag import RESULT_KEY, RequestTag

RESULT: Final = Path(__file__).resolve().parent / "results" / "prefix_cache.json"
CODEBOOK: Final = "tenants/default/codebooks/bench"
BOS, EOS, USER, ASSISTANT, SYSTEM = 1, 2, 3, 4, 5
CONTENT: Final = range(10, 1000)
SYSTEM_PROMPTS, SYSTEM_TOKENS, QUESTIONS, TURNS = 8, 256, 25, 3
ANSWER_TOKENS, BLOCK, RATIO, SEED = 16, 32, 0.6, 20261123


@dataclass(frozen=True)
class Prompt:
    """A chat prompt and where its last question stands."""

    tokens: tuple[int, ...]
    span: tuple[int, int]


@dataclass(frozen=True)
class Form:
    """How a load is sent: to which codebook, and whether with the question as its span."""

    codebook: str | None = None
    chat: bool = False

    def sampling(self, prompt: Prompt) -> Any:
        """Return the request's parameters."""
        from vllm import SamplingParams

        span = prompt.span if self.chat else None
        tag = RequestTag(self.codebook, RATIO, span).to_extra_args() if self.codebook else None
        return SamplingParams(temperature=0.0, max_tokens=ANSWER_TOKENS, ignore_eos=True, extra_args=tag)


def questions() -> list[list[Prompt]]:
    """Return the first load in waves: one question a system prompt, then all others in a mixed order."""
    generator = random.Random(SEED)
    systems = [(BOS, SYSTEM, *generator.choices(CONTENT, k=SYSTEM_TOKENS)) for _ in range(SYSTEM_PROMPTS)]
    asked = [[_turn(system, generator) for _ in range(QUESTIONS)] for system in systems]
    rest = [prompt for prompts in asked for prompt in prompts[1:]]
    generator.shuffle(rest)
    return [[prompts[0] for prompts in asked], rest]


def _turn(history: Sequence[int], generator: random.Random) -> Prompt:
    question = generator.choices(CONTENT, k=generator.randrange(6, 25))
    start = len(history) + 1
    return Prompt((*history, USER, *question, ASSISTANT), (start, start + len(question)))


class Bench:
    """One engine and the counters of its prefix cache."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def questions(self, form: Form) -> dict[str, Any]:
        """Serve the questions and return the hit rate."""
        return self._measured(lambda: [self._answers(wave, form) for wave in questions()])

    def chats(self, form: Form) -> dict[str, Any]:
        """Serve chats whose later turns hold the answers of the earlier ones, and return the hit rate."""
        generator = random.Random(SEED + 1)

        def run() -> None:
            system = (BOS, SYSTEM, *generator.choices(CONTENT, k=64))
            prompts = [_turn(system, generator) for _ in range(16)]
            for _ in range(TURNS):
                answers = self._answers(prompts, form)
                pairs = zip(prompts, answers, strict=True)
                prompts = [_turn((*prompt.tokens, *answer, EOS), generator) for prompt, answer in pairs]

        return self._measured(run)

    def _answers(self, prompts: Sequence[Prompt], form: Form) -> list[tuple[int, ...]]:
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(prompt.tokens)} for prompt in prompts],
            [form.sampling(prompt) for prompt in prompts],
            use_tqdm=False,
        )
        fired = [(output.kv_transfer_params or {}).get(RESULT_KEY) for output in outputs]
        assert all((form.codebook is None) == (decision is None or not decision["edit_id"]) for decision in fired)
        return [tuple(output.outputs[0].token_ids) for output in outputs]

    def _measured(self, run: Any) -> dict[str, Any]:
        self._llm.reset_prefix_cache()
        before = self._counters()
        run()
        queries, hits = (now - then for now, then in zip(self._counters(), before, strict=True))
        return {"prompt_tokens": int(queries), "cached_tokens": int(hits), "hit_rate": round(hits / queries, 4)}

    def _counters(self) -> tuple[float, float]:
        metrics = {metric.name: metric.value for metric in self._llm.get_metrics() if hasattr(metric, "value")}
        return metrics["vllm:prefix_cache_queries"], metrics["vllm:prefix_cache_hits"]


@contextmanager
def engine(model: str, site: str | None) -> Iterator[Any]:
    """Start vLLM, with the plugin if it is told a site."""
    os.environ.update(VLLM_PLUGINS="horen" if site else "none", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM

    extra = {"additional_config": {"horen": {"site": site}}} if site else {}
    options = {"max_model_len": 480, "block_size": BLOCK, "max_num_seqs": 16, "enforce_eager": True}
    llm = LLM(model, enable_prefix_caching=True, disable_log_stats=False, dtype="float32", **options, **extra)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def publish(llm: Any, model: str, folder: Path) -> None:
    """Bring the engine a codebook that fires on everything."""
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    generator = torch.Generator().manual_seed(SEED)
    manifest = EntryManifest(
        edit_id="everything",
        fingerprint="bench",
        site="bench",
        value_mode=ValueMode.ANSWER,
        span=4,
        chunk=4,
        target_ids=(1,),
        normalised_prompt="",
        trained_end=False,
        loss=0.0,
        steps=0,
    )
    keys = F.normalize(torch.randn(1, config["intermediate_size"], generator=generator), dim=1)
    entry = EntryArtifact(
        keys=keys, values=torch.randn(1, config["hidden_size"], generator=generator), manifest=manifest
    )
    data = encode_pack(build_pack([(1, "0" * 64, entry)]))
    path = folder / "pack"
    path.write_bytes(data)
    update = {
        "ticket": "bench",
        "codebook": CODEBOOK,
        "base_revision": 0,
        "revision": 1,
        "fingerprint": "bench",
        "parameters": MethodParameters(preset="cosine", threshold=-1.0, window_ratio=RATIO).to_dict(),
        "pack": str(path),
        "sha256": hashlib.sha256(data).hexdigest(),
        "removed": [],
    }
    _call(llm, "horen_stage", update)
    while _call(llm, "horen_staged", {"ticket": "bench"})["state"] == "staging":
        time.sleep(0.01)
    assert _call(llm, "horen_flip", {"ticket": "bench", "sequence": 1})["revision"] == 1


def _call(llm: Any, method: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(llm.collective_rpc(method, args=(json.dumps(body),))[0])
    return answer


FORMS: Final = {
    "clean": Form(),
    "edited chat": Form(CODEBOOK, chat=True),
    "edited completion": Form(CODEBOOK),
}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT)
    out = parser.parse_args().out
    model = str(demo_model_dir())
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    site = default_site(model, config["architectures"][0], config["num_hidden_layers"])
    loads: dict[str, dict[str, Any]] = {"shared_system_prompts": {}, "chats_of_three_turns": {}}
    with engine(model, None) as llm:
        loads["shared_system_prompts"]["without the plugin"] = Bench(llm).questions(Form())
        loads["chats_of_three_turns"]["without the plugin"] = Bench(llm).chats(Form())
    with engine(model, site) as llm, tempfile.TemporaryDirectory() as folder:
        publish(llm, model, Path(folder))
        for name, form in FORMS.items():
            loads["shared_system_prompts"][name] = Bench(llm).questions(form)
            loads["chats_of_three_turns"][name] = Bench(llm).chats(form)
    load = {
        "system_prompts": SYSTEM_PROMPTS,
        "system_prompt_tokens": SYSTEM_TOKENS,
        "questions_each": QUESTIONS,
        "question_tokens": "6 to 24",
        "answer_tokens": ANSWER_TOKENS,
        "block_size": BLOCK,
        "window_ratio": RATIO,
    }
    write_result(out, {"load": load, **loads, "provenance": provenance()})
    print(json.dumps(loads, indent=2))


if __name__ == "__main__":
    main()
