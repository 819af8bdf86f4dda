"""One command that says whether the runtime is right and fast on this machine's GPU.

``python -m bench.gpu_smoke --out FILE`` runs all parts and writes their result; ``docs/howto/gpu-smoke.md`` says
what each part does. ``--device cpu --small`` runs the same code at small sizes on a CPU.
"""

import argparse
import contextlib
import functools
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional as F

from bench import smoke_kernels, smoke_load
from bench.checkout import register_checkout
from bench.oracle_hf import LLAMA_8B, TINY, HfOracle, OracleBook, OracleEntry, Shape, write_dummy_model
from bench.oracle_hf import write_random_model as write_random
from bench.provenance import provenance, write_result
from bench.smoke_engine import EngineJob, EngineProcess
from bench.smoke_load import CHUNK, Case

PARTS: Final = ("kernels", "exact", "bits", "speed")
PAIRS: Final = 5
SHARES: Final = (0.0, 0.1, 1.0)
"""Shares of edited requests in the speed part."""
_GIB: Final = 1 << 30


@dataclass(frozen=True)
class Setting:
    """What this run is."""

    device: str
    small: bool
    folder: Path
    runners: tuple[str, ...]

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is checked."""
        return self.device == "cuda"


@dataclass
class Result:
    """The lines of the report."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)

    def add(self, name: str, verdict: bool | None, detail: Any) -> None:
        """Print and keep one line; None means skipped."""
        word = "SKIP" if verdict is None else "PASS" if verdict else "FAIL"
        seconds = round(time.perf_counter() - self._began, 1)
        self.steps.append({"name": name, "verdict": word, "detail": detail, "at_second": seconds})
        print(f"{word} {name} ({seconds} s): {detail}", flush=True)

    @property
    def failed(self) -> bool:
        """Whether any line says FAIL."""
        return any(step["verdict"] == "FAIL" for step in self.steps)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Turn an error inside a part into a FAIL line, so that the other parts still run."""
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - whatever it was, it is the part's result
            traceback.print_exc()
            self.add(name, verdict=False, detail=f"{type(exc).__name__}: {exc}"[:3000])


def engine_job(setting: Setting, name: str, model: Path, site: str | None, **options: Any) -> EngineJob:
    """Return how an engine of this run is started; `name` ends in the model runner's version."""
    environment = {"VLLM_USE_V2_MODEL_RUNNER": "1" if name.endswith("V2") else "0"}
    if setting.on_gpu:
        # Given outright, so that engines that start side by side do not measure each other's memory.
        options = {"gpu_memory_utilization": 0.1, "kv_cache_memory_bytes": _GIB, **options}
        options.setdefault("compilation_config", {"cudagraph_mode": "FULL_AND_PIECEWISE"})
        # Triton's attention multiplies fp32 as TF32 unless told otherwise.
        environment["TRITON_F32_DEFAULT"] = "ieee"
        if options["dtype"] == "float32":
            options["attention_backend"] = "TRITON_ATTN"
    else:
        options = {**options, "enforce_eager": True, "block_size": 32}
        environment["VLLM_CPU_KVCACHE_SPACE"] = "1"
    timeout_s = 400.0 if setting.on_gpu else 1200.0
    log = setting.folder / f"{name}.log"
    return EngineJob(model, site, log, {"seed": 0, **options}, environment=environment, timeout_s=timeout_s)


SMALL_ENGINE: Final = {"max_model_len": 480, "max_num_seqs": 8}


def check_kernels(setting: Setting, result: Result) -> None:
    """Part 1: the kernels against their definitions."""
    # A kernel is interpreted if the process was told so before it first imported triton.
    os.environ["TRITON_INTERPRET"] = "0" if setting.on_gpu else "1"
    try:
        pool = multiprocessing.get_context("spawn").Pool(1)
    finally:
        del os.environ["TRITON_INTERPRET"]
    with pool:
        for name, passed, detail in pool.apply(smoke_kernels.run, (setting.device,)):
            result.add(f"kernels: {name}", passed, detail)


def check_exact(setting: Setting, result: Result, model: Path, runner: str) -> None:
    """Part 2: a mixed load in fp32 against the oracle, and what was captured and replayed."""
    label = f"exact {runner}"
    options = {**SMALL_ENGINE, "dtype": "float32", "max_num_batched_tokens": CHUNK, "enable_prefix_caching": True}
    with EngineProcess(engine_job(setting, f"exact-{runner}", model, TINY.site, **options)) as engine:
        oracle = HfOracle(model, TINY.site)
        texts = smoke_load.prompts()
        books = smoke_load.books(oracle, texts)
        engine.call("ready")
        result.add(f"{label}: engine up", verdict=True, detail="")
        for name, book in books.items():
            engine.call("apply", name, book)
        asked = smoke_load.cases(texts)
        verdict = smoke_load.judge(oracle, books, asked, engine.call("serve", asked))
        result.add(f"{label}: mixed load", verdict.passed, asdict(verdict))
        # Alone in its step, a prompt of one token more than a chunk ends in a chunk of one token.
        single = [Case(texts[smoke_load.LENGTHS.index(length)], smoke_load.BOOK_A, 5) for length in (1, 33, 65)]
        served = [engine.call("serve", [case])[0] for case in single]
        lonely = smoke_load.judge(oracle, books, single, served)
        result.add(f"{label}: last chunks of one token", not lonely.wrong, lonely.wrong or "equal to the oracle")
        routed = engine.call("status")["routing"]["requests"]
        expected = sum(case.codebook is not None for case in [*asked, *single])
        result.add(f"{label}: every tagged request was routed once", routed == expected, f"{routed} of {expected}")
        _check_graphs(setting, result, label, engine, oracle, books, texts)


def _check_graphs(
    setting: Setting,
    result: Result,
    label: str,
    engine: EngineProcess,
    oracle: HfOracle,
    books: dict[str, OracleBook],
    texts: list[list[int]],
) -> None:
    steps = 40
    case = Case(texts[smoke_load.LENGTHS.index(17)], smoke_load.BOOK_A, steps)
    before = engine.call("status")
    verdict = smoke_load.judge(oracle, books, [case], engine.call("serve", [case]))
    after = engine.call("status")
    calls = after["op_calls"] - before["op_calls"]
    result.add(f"{label}: a long answer", not verdict.wrong, verdict.wrong or "equal to the oracle")
    if setting.on_gpu:
        result.add(f"{label}: graphs were captured", after["captures"] > 0, f"{after['captures']} captures")
        replayed = 0 < calls < steps // 4
        result.add(f"{label}: decode was replayed, the prompt was not", replayed, f"{calls} calls in {steps} steps")
    else:
        # Without graphs every step calls the op: the count that the check on a GPU relies on moves.
        result.add(f"{label}: every step calls the op", calls >= steps, f"{calls} calls in {steps} steps")
    same = {name: (before[name], after[name]) for name in ("compilations", "captures") if before[name] != after[name]}
    result.add(f"{label}: nothing compiled or captured while serving", not same, same or "counts stood still")


def check_bits(setting: Setting, result: Result, model: Path, runner: str) -> None:
    """Part 3: in bf16, clean and unmatched requests have the same tokens and logprob bits with and without us."""
    options = {**SMALL_ENGINE, "dtype": "bfloat16", "max_num_batched_tokens": 64, "enable_prefix_caching": False}
    texts = smoke_load.prompts(seed=11)
    asked = [Case(case.prompt, case.codebook, 8) for case in smoke_load.cases(texts, seed=12)]
    with contextlib.ExitStack() as stack:
        engines = [
            stack.enter_context(EngineProcess(engine_job(setting, f"bits-{kind}-{runner}", model, site, **options)))
            for kind, site in (("plain", None), ("plugin", TINY.site))
        ]
        books = smoke_load.books(HfOracle(model, TINY.site), texts)
        for name, book in books.items():
            engines[1].call("apply", name, book)
        plain, edited = (engine.call("serve", asked, True) for engine in engines)
    rows = list(zip(asked, plain, edited, strict=True))
    silent = [row for row in rows if row[2].decision is None or row[2].decision["edit_id"] is None]
    unmatched = sum(case.codebook is not None for case, _, _ in silent)
    same = sum((a.tokens, a.logprobs) == (b.tokens, b.logprobs) for _, a, b in silent)
    changed = sum(a.tokens != b.tokens for _, a, b in rows) - sum(a.tokens != b.tokens for _, a, b in silent)
    detail = {"silent": len(silent), "unmatched": unmatched, "identical": same, "matched_and_changed": changed}
    result.add(f"bits {runner}", same == len(silent) and min(unmatched, changed) >= 5, detail)


@dataclass(frozen=True)
class SpeedLoad:
    """The speed part's model and requests."""

    shape: Shape
    requests: int
    tokens: int
    entries: int

    def book(self) -> OracleBook:
        """Return a codebook whose best entry always matches, and writes at every answer position."""
        generator = torch.Generator().manual_seed(5)
        keys = F.normalize(torch.randn(self.entries, self.shape.inner, generator=generator), dim=-1)
        values = 0.01 * torch.randn(self.entries, self.shape.hidden, generator=generator)
        rows = zip(keys, values, strict=True)
        entries = [
            OracleEntry(f"e{index}", index, key[None], value[None], "answer", self.tokens)
            for index, (key, value) in enumerate(rows)
        ]
        return OracleBook(tuple(entries), threshold=-1.0)

    def cases(self, share: float) -> list[Case]:
        """Return the requests, `share` of them edited."""
        generator = random.Random(6)
        edited = round(share * self.requests)
        prompts = [generator.choices(range(3, self.shape.vocabulary), k=self.tokens) for _ in range(self.requests)]
        names = [smoke_load.BOOK_A] * edited + [None] * (self.requests - edited)
        generator.shuffle(names)
        return [Case(prompt, name, self.tokens) for prompt, name in zip(prompts, names, strict=True)]


@contextlib.contextmanager
def speed_engines(setting: Setting, load: SpeedLoad) -> Iterator[dict[str, EngineProcess]]:
    """Start plain vLLM and vLLM with the plugin on the same dummy weights."""
    model = write_dummy_model(setting.folder / "speed", load.shape)
    options: dict[str, Any] = {
        "dtype": "bfloat16",
        "load_format": "dummy",
        "max_model_len": 4 * load.tokens,
        "max_num_seqs": load.requests,
        "enable_prefix_caching": False,
    }
    if setting.on_gpu:
        options |= {"gpu_memory_utilization": 0.3, "kv_cache_memory_bytes": 16 * _GIB}
    with contextlib.ExitStack() as stack:
        yield {
            kind: stack.enter_context(EngineProcess(engine_job(setting, f"speed-{kind}-V1", model, site, **options)))
            for kind, site in (("plain", None), ("plugin", load.shape.site))
        }


def measure_speed(result: Result, load: SpeedLoad, engines: dict[str, EngineProcess]) -> None:
    """Part 4: output tokens/s of both engines in interleaved pairs, for each share of edited requests."""
    engines["plugin"].call("apply", smoke_load.BOOK_A, load.book())
    for engine in engines.values():
        engine.call("seconds", load.cases(0.5))
    result.add("speed: engines warm", verdict=True, detail=asdict(load))
    for share in SHARES:
        asked = load.cases(share)
        pairs = []
        for turn in range(PAIRS):
            order = sorted(engines, reverse=bool(turn % 2))
            pairs.append({kind: engines[kind].call("seconds", asked) for kind in order})
        ratios = sorted(pair["plain"] / pair["plugin"] for pair in pairs)
        rates = {kind: round(load.requests * load.tokens / statistics.median(p[kind] for p in pairs)) for kind in order}
        detail = {
            "plugin_to_plain": round(statistics.median(ratios), 4),
            "lowest": round(ratios[0], 4),
            "highest": round(ratios[-1], 4),
            "tokens_per_second": rates,
        }
        result.add(f"speed: {share:.0%} edited, {PAIRS} pairs", verdict=True, detail=detail)


def run(setting: Setting, parts: list[str], result: Result) -> None:
    """Run the parts: the engines of a GPU run start side by side, and speed is measured when the others are done."""
    model = write_random(setting.folder / "tiny", TINY)
    load = SpeedLoad(TINY, 8, 16, 50) if setting.small else SpeedLoad(LLAMA_8B, 256, 128, 1000)
    work: list[tuple[str, Callable[[], None]]] = []
    if "kernels" in parts:
        work.append(("kernels", functools.partial(check_kernels, setting, result)))
    for runner in setting.runners:
        if "exact" in parts:
            work.append((f"exact {runner}", functools.partial(check_exact, setting, result, model, runner)))
        if "bits" in parts:
            work.append((f"bits {runner}", functools.partial(check_bits, setting, result, model, runner)))

    def guarded(name: str, step: Callable[[], None]) -> None:
        with result.part(name):
            step()

    with contextlib.ExitStack() as stack:
        engines: dict[str, EngineProcess] = {}
        if "speed" in parts and setting.on_gpu:
            engines = stack.enter_context(speed_engines(setting, load))
        with ThreadPoolExecutor(len(work) or 1 if setting.on_gpu else 1) as threads:
            for done in [threads.submit(guarded, name, step) for name, step in work]:
                done.result()
        if "speed" in parts:
            with result.part("speed"):
                measure_speed(result, load, engines or stack.enter_context(speed_engines(setting, load)))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_smoke", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="measure speed on the tiny model")
    parser.add_argument("--runners", nargs="+", choices=("V1", "V2"), help="model runners; both on a GPU, V1 on a CPU")
    parser.add_argument("--out", type=Path, default=Path("bench/results/gpu_smoke.json"))
    parser.add_argument("--logs", type=Path, help="folder for the engines' logs; kept (default: deleted)")
    found = parser.parse_args()
    if unknown := set(found.parts) - set(PARTS):
        parser.error(f"unknown part {min(unknown)!r}: choose from {', '.join(PARTS)}")
    return found


def main() -> int:
    """Run what the command line asks for, write the result, and return 1 when anything failed."""
    chosen = arguments()
    result = Result()
    with tempfile.TemporaryDirectory(prefix="horen-smoke-") as temporary:
        folder = chosen.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        register_checkout(Path(temporary))
        runners = tuple(chosen.runners or (("V1", "V2") if chosen.device == "cuda" else ("V1",)))
        setting = Setting(chosen.device, chosen.small, folder, runners)
        if chosen.device == "cuda" and not torch.cuda.is_available():
            result.add("device", verdict=False, detail="torch sees no CUDA device")
        else:
            run(setting, chosen.parts or list(PARTS), result)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    write_result(chosen.out, {**provenance(), "device": device, "steps": result.steps})
    failed = [step["name"] for step in result.steps if step["verdict"] == "FAIL"]
    print(f"{len(result.steps) - len(failed)} of {len(result.steps)} steps passed; written to {chosen.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
