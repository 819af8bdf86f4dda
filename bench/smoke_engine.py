"""A vLLM engine in a process of its own, driven over a pipe: several run side by side, and each ends for certain."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import struct
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.oracle_hf import OracleBook, OracleEntry
from bench.smoke_load import Case, Served
from horen_vllm.artifact import EntryArtifact, EntryManifest
from horen_vllm.core.presets import MethodParameters, ValueMode
from horen_vllm.pack import build_pack, encode_pack
from horen_vllm.plugin.tag import RequestTag

_FINGERPRINT = "smoke"
_STAGING_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class EngineJob:
    """How an engine is started."""

    model: Path
    site: str | None
    """Edit site; None: vLLM without the plugin."""
    log: Path
    options: dict[str, Any]
    """Arguments of ``LLM``."""
    environment: dict[str, str] = field(default_factory=dict)
    plugin: dict[str, Any] = field(default_factory=dict)
    """More of the plugin's settings."""
    timeout_s: float = 400.0
    """How long a call may take; the first one includes the start."""


class EngineProcess:
    """Starts at once; the first call waits until the engine is up."""

    def __init__(self, job: EngineJob) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._job = job
        self._process = context.Process(target=_run, args=(job, other))
        self._process.start()
        other.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the engine."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(60)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the engine's host and return its answer.

        Raises
        ------
        RuntimeError
            With the error, and the end of the engine's log, when it failed or did not answer in time.
        """
        try:
            self._pipe.send((name, arguments))
            late = ("error", f"no answer to {name} in {self._job.timeout_s} s")
            verdict, answer = self._pipe.recv() if self._pipe.poll(self._job.timeout_s) else late
        except (EOFError, OSError):
            verdict, answer = "error", "the engine's process ended"
        if verdict == "error":
            text = self._job.log.read_text(errors="replace") if self._job.log.exists() else ""
            raise RuntimeError(f"{answer}\n{text[-3000:]}")
        return answer


def _run(job: EngineJob, pipe: Any) -> None:
    log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(
        {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_PLUGINS": "horen" if job.site else "none"}
        | job.environment
    )
    try:
        host = _Host(job)
    except Exception:  # noqa: BLE001 - whatever it was, the parent reports it
        pipe.send(("error", traceback.format_exc()[-1500:]))
        return
    while (message := pipe.recv()) is not None:
        name, arguments = message
        try:
            pipe.send(("ok", getattr(host, name)(*arguments)))
        except Exception:  # noqa: BLE001
            pipe.send(("error", traceback.format_exc()[-1500:]))
    host.close()


class _Host:
    """The engine, in its own process."""

    def __init__(self, job: EngineJob) -> None:
        # Only after the environment is set.
        from vllm import LLM

        extra = {"additional_config": {"horen": {"site": job.site, **job.plugin}}} if job.site else {}
        self._tagging = job.site is not None
        self._sequence = 0
        self._llm = LLM(str(job.model), skip_tokenizer_init=True, disable_log_stats=True, **job.options, **extra)

    def ready(self) -> bool:
        """Answer once the engine is up."""
        return True

    def close(self) -> None:
        """Stop vLLM's own processes."""
        self._llm.llm_engine.engine_core.shutdown()

    def status(self) -> dict[str, Any]:
        """Return the plugin's counters."""
        return self._rpc("horen_status", {})

    def apply(self, name: str, book: OracleBook) -> None:
        """Bring a codebook to the workers as the sync agent does: stage, wait, flip."""
        entries = [
            (entry.sequence, hashlib.sha256(entry.edit_id.encode()).hexdigest(), entry) for entry in book.entries
        ]
        data = encode_pack(build_pack([(sequence, digest, _artifact(entry)) for sequence, digest, entry in entries]))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "update.pack"
            path.write_bytes(data)
            self.apply_pack(name, path, hashlib.sha256(data).hexdigest(), _parameters(book))

    def apply_pack(
        self, name: str, path: Path, sha256: str, parameters: MethodParameters, fingerprint: str = _FINGERPRINT
    ) -> None:
        """Bring a pack that is on disk to the workers as a codebook's first revision."""
        body = {
            "ticket": name,
            "codebook": name,
            "base_revision": 0,
            "revision": 1,
            "fingerprint": fingerprint,
            "parameters": parameters.to_dict(),
            "pack": str(path),
            "sha256": sha256,
            "removed": [],
        }
        self._rpc("horen_stage", body)
        self._await_staged(name)
        self._sequence += 1
        self._rpc("horen_flip", {"ticket": name, "sequence": self._sequence})

    def _await_staged(self, ticket: str) -> None:
        deadline = time.monotonic() + _STAGING_TIMEOUT_S
        while (answer := self._rpc("horen_staged", {"ticket": ticket}))["state"] == "staging":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{ticket} was not staged in {_STAGING_TIMEOUT_S} s")
            time.sleep(0.01)
        if answer["state"] != "staged":
            raise RuntimeError(str(answer))

    def serve(self, asked: list[Case], logprobs: bool = False) -> list[Served]:
        """Send all requests at once and return the answers in order."""
        outputs = self._generate(asked, logprobs=2 if logprobs else None)
        return [_served(output.outputs[0]) for output in outputs]

    def timed(self, asked: list[Case]) -> tuple[float, list[Served]]:
        """Send all requests at once; return how long they take together, and the answers in order."""
        began = time.perf_counter()
        outputs = self._generate(asked, logprobs=None)
        return time.perf_counter() - began, [_served(output.outputs[0]) for output in outputs]

    def threads(self) -> int:
        """Return how many threads torch computes with in this process."""
        import torch

        return torch.get_num_threads()

    def seconds(self, asked: list[Case]) -> float:
        """Return how long all requests take together."""
        took, served = self.timed(asked)
        assert all(len(one.tokens) == case.max_tokens for one, case in zip(served, asked, strict=True))
        return took

    def _generate(self, asked: list[Case], logprobs: int | None) -> list[Any]:
        from vllm import SamplingParams

        parameters = [
            SamplingParams(
                temperature=0.0,
                max_tokens=case.max_tokens,
                ignore_eos=True,
                detokenize=False,
                logprobs=logprobs,
                extra_args=RequestTag(case.codebook, 0.6).to_extra_args() if case.codebook and self._tagging else None,
            )
            for case in asked
        ]
        prompts: Any = [{"prompt_token_ids": case.prompt} for case in asked]
        outputs: list[Any] = self._llm.generate(prompts, parameters, use_tqdm=False)
        return outputs

    def _rpc(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        [answer] = [json.loads(text) for text in self._llm.collective_rpc(method, args=(json.dumps(body),))]
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer)


def _served(completion: Any) -> Served:
    return Served(list(completion.token_ids), getattr(completion, "horen", None), b"".join(_bits(completion.logprobs)))


def _bits(logprobs: Any) -> Iterator[bytes]:
    for position in logprobs or ():
        for token, entry in sorted(position.items()):
            yield struct.pack("<id", token, entry.logprob)


def _parameters(book: OracleBook) -> MethodParameters:
    return MethodParameters(
        preset="cosine",
        threshold=book.threshold,
        window_ratio=book.ratio,
        beta=book.beta,
        gamma=book.gamma,
        steps=book.steps,
        epsilon=book.epsilon,
    )


def _artifact(entry: OracleEntry) -> EntryArtifact:
    manifest = EntryManifest(
        edit_id=entry.edit_id,
        fingerprint=_FINGERPRINT,
        site="smoke",
        value_mode=ValueMode(entry.mode),
        span=entry.span,
        chunk=entry.chunk if entry.mode == "sequence" else entry.span,
        target_ids=(1,),
        normalised_prompt=entry.edit_id,
        trained_end=False,
        loss=0.0,
        steps=0,
        rank=entry.rank,
    )
    return EntryArtifact(keys=entry.keys, values=entry.values, manifest=manifest)
