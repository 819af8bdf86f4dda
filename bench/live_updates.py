"""What a live update costs the requests that are being served: flips, and steps while many entries are staged.

One engine in this process decodes a steady batch. 200 revisions of a large codebook are flipped between its steps,
then 10,000 entries are staged beside them, in interleaved pairs of steps with and without, in an order that turns
round; nothing is compiled or captured.

`step_after_to_before_a_flip` is the ratio of two steps with a flip between them, and `step_to_step_without_a_flip`, its
control, of two with nothing between them; `staging.p50_ratio` and `staging.p99_ratio` are those of a pair's steps
beside staging to those without. All are medians over pairs with a 95 % interval; near 1 is good, above 1 is a cost.

    python -m bench.live_updates --out bench/results/live_updates.json
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.intervals import interval
from bench.made_entries import EntryForm, write_pack
from bench.provenance import provenance, write_result
from bench.quantiles import summary
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.plugin.tag import RequestTag

CODEBOOK = "tenants/default/codebooks/bench"
BULK = "tenants/default/codebooks/bulk"
FINGERPRINT = "bench"
_STEPS_A_QUESTION = 10
_VALUES = 4
"""Vectors of an entry, one a position."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds of steps without staging, and of steps beside it."""

    quiet: list[float]
    staging: list[float]


class Loop:
    """An engine that decodes a steady batch, one step a call, and its updates."""

    def __init__(self, engine: Any, requests: int, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._sequence = self._requests = 0
        self._revisions: dict[str, int] = {}
        self._batch = requests

    def step(self) -> float:
        """Run one engine step with a full batch and return its seconds."""
        from vllm import SamplingParams

        while self._engine.get_num_unfinished_requests() < self._batch:
            self._requests += 1
            tag = RequestTag(CODEBOOK, 0.6).to_extra_args() if self._requests % 2 else None
            parameters = SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True, extra_args=tag)
            prompt = {"prompt_token_ids": [10 + (self._requests * 7 + i) % 900 for i in range(24)]}
            self._engine.add_request(str(self._requests), prompt, parameters)
        began = time.perf_counter()
        self._engine.step()
        return time.perf_counter() - began

    def stage(self, codebook: str, pack: Path, sha256: str, *, base: int) -> str:
        """Begin to stage a pack and return its ticket."""
        revision = self._revisions.get(codebook, 0) + 1
        ticket = f"{codebook}-{revision}-{self._sequence}"
        parameters = MethodParameters(preset="cosine", threshold=0.9).to_dict()
        update = {"codebook": codebook, "base_revision": base, "revision": revision, "fingerprint": FINGERPRINT}
        update |= {"ticket": ticket, "parameters": parameters, "pack": str(pack), "sha256": sha256, "removed": []}
        self._call("horen_stage", update)
        return ticket

    def state(self, ticket: str) -> str:
        """Return how far a ticket has come."""
        return str(self._call("horen_staged", {"ticket": ticket})["state"])

    def flip(self, codebook: str, ticket: str) -> float:
        """Flip a staged ticket and return how long the engine's loop was held up, in seconds."""
        self._sequence += 1
        began = time.perf_counter()
        answer = self._call("horen_flip", {"ticket": ticket, "sequence": self._sequence})
        elapsed = time.perf_counter() - began
        self._revisions[codebook] = answer["revision"]
        return elapsed

    def unstage(self, ticket: str) -> None:
        """Forget a ticket."""
        self._call("horen_unstage", {"ticket": ticket})

    def status(self) -> dict[str, Any]:
        """Return the worker's status."""
        return self._call("horen_status", {})

    def until_staged(self, ticket: str, record: Callable[[float], None]) -> None:
        """Step until a ticket is staged, recording each step."""
        while self.state(ticket) == "staging":
            # The agent asks at most every tenth of a second; a question takes its time between two steps.
            for _ in range(_STEPS_A_QUESTION):
                record(self.step())
        if self.state(ticket) != "staged":
            raise SystemExit(f"staging failed: {self._call('horen_staged', {'ticket': ticket})}")

    def _call(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._engine.collective_rpc(method, args=(json.dumps(body),))[0])
        if "error" in answer and answer.get("state") != "failed":
            raise SystemExit(f"{method}: {answer['error']}")
        return answer


def make_pack(folder: Path, name: str, first: int, count: int, widths: tuple[int, int]) -> tuple[Path, str]:
    """Write a pack of `count` random entries, numbered from `first`, and return it with its hash."""
    generator = torch.Generator().manual_seed(first)
    keys = torch.nn.functional.normalize(torch.randn(count, widths[0], generator=generator), dim=-1)
    values = torch.randn(count, _VALUES, widths[1], generator=generator)
    form = EntryForm(fingerprint=FINGERPRINT, site="bench", mode=ValueMode.SEQUENCE, span=_VALUES, chunk=1)
    entries = [form.entry(f"e{first + index}", keys[index : index + 1], values[index]) for index in range(count)]
    path = folder / f"{name}.safetensors"
    return path, write_pack(path, entries, first=first)


def measure_flips(loop: Loop, folder: Path, widths: tuple[int, int], flips: int) -> dict[str, list[float]]:
    """Publish `flips` revisions of one entry each on top of the bulk codebook.

    Returns
    -------
    dict
        Seconds of each ``flip``, of the step ``before`` and ``after`` it, and of one more ``earlier`` than that.
    """
    seconds: dict[str, list[float]] = {"earlier": [], "before": [], "flip": [], "after": []}
    for index in range(flips):
        pack, digest = make_pack(folder, "one", 1_000_000 + index, 1, widths)
        ticket = loop.stage(CODEBOOK, pack, digest, base=index + 1)
        loop.until_staged(ticket, lambda _seconds: None)
        seconds["earlier"].append(loop.step())
        seconds["before"].append(loop.step())
        seconds["flip"].append(loop.flip(CODEBOOK, ticket))
        seconds["after"].append(loop.step())
    return seconds


def flip_summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return what `measure_flips` found: times in milliseconds and ratios of the steps around a flip."""
    flips = {f"{name}_ms": value for name, value in _milliseconds(seconds["flip"]).items()}
    return {
        "flips": {"count": len(seconds["flip"]), **flips},
        "step_before_a_flip_ms": _milliseconds(seconds["before"]),
        "step_after_a_flip_ms": _milliseconds(seconds["after"]),
        "step_after_to_before_a_flip": _ratios(seconds["after"], seconds["before"]),
        "step_to_step_without_a_flip": _ratios(seconds["before"], seconds["earlier"]),
    }


def measure_staging(loop: Loop, bulk: tuple[Path, str], rounds: int) -> list[Pair]:
    """Return step times beside the staging of `bulk` and without it, a pair a round.

    Every second pair begins with the steps without, as many as the pair before had.
    """
    pairs: list[Pair] = []
    for number in range(rounds):
        quiet, staging = list[float](), list[float]()
        if number % 2:
            quiet += [loop.step() for _ in pairs[-1].staging]
        ticket = loop.stage(BULK, *bulk, base=0)
        loop.until_staged(ticket, staging.append)
        loop.unstage(ticket)
        _drain(loop)
        if not number % 2:
            quiet += [loop.step() for _ in staging]
        pairs.append(Pair(quiet, staging))
    return pairs


def staging_summary(pairs: list[Pair]) -> dict[str, Any]:
    """Return what `measure_staging` found: times in milliseconds, and ratios within a pair."""
    quiet, staging = ([step for pair in pairs for step in getattr(pair, name)] for name in ("quiet", "staging"))
    ratios = {
        f"p{percent}_ratio": [_percentile(pair.staging, percent) / _percentile(pair.quiet, percent) for pair in pairs]
        for percent in (50, 99)
    }
    return {
        "pairs": len(pairs),
        "steps": len(staging),
        "quiet_ms": _milliseconds(quiet),
        "staging_ms": _milliseconds(staging),
        **{name: interval(values) for name, values in ratios.items()},
        **{f"{name}_by_pair": values for name, values in ratios.items()},
    }


def _drain(loop: Loop) -> None:
    # Rows are given back beside the steps too; the quiet half must not pay for it.
    while loop.status()["pages"]["values"]["used"] > _VALUES * loop.status()["entries"][CODEBOOK]:
        loop.step()


def _milliseconds(seconds: list[float]) -> dict[str, Any]:
    return summary([1e3 * one for one in seconds], digits=4)


def _ratios(above: list[float], below: list[float]) -> dict[str, float]:
    return interval([one / other for one, other in zip(above, below, strict=True)])


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(demo_model_dir()))
    parser.add_argument("--site", default="model.layers.3.mlp.down_proj")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_PLUGINS": "horen"}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    made = provenance()
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    settings = {"horen": {"site": arguments.site, "key_budget_mib": 512, "value_budget_mib": 512}}
    options: dict[str, Any] = {"max_num_seqs": arguments.batch, "max_model_len": 480, "block_size": 32}
    options |= {"dtype": "float32", "enforce_eager": True, "additional_config": settings, "seed": 0}
    engine = LLMEngine.from_engine_args(EngineArgs(arguments.model, **options))
    config = engine.vllm_config.model_config.hf_config
    widths = (config.intermediate_size, config.hidden_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loop = Loop(engine, arguments.batch, folder)
        base = make_pack(folder, "base", 1, arguments.entries, widths)
        ticket = loop.stage(CODEBOOK, *base, base=0)
        loop.until_staged(ticket, lambda _seconds: None)
        loop.flip(CODEBOOK, ticket)
        for _ in range(100):
            loop.step()
        counted = loop.status()
        result: dict[str, Any] = {"entries": arguments.entries, "provenance": made}
        result |= flip_summary(measure_flips(loop, folder, widths, arguments.flips))
        _write(arguments.out, result)
        bulk = make_pack(folder, "bulk", 100_000, arguments.entries, widths)
        result["staging"] = staging_summary(measure_staging(loop, bulk, arguments.rounds))
        after = loop.status()
    result |= {name: after[name] - counted[name] for name in ("compilations", "captures")}
    _write(arguments.out, result)
    print(json.dumps(result, indent=2))


def _write(out: Path | None, result: dict[str, Any]) -> None:
    if out is not None:
        write_result(out, result)


if __name__ == "__main__":
    main()
