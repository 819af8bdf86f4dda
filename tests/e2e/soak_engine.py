"""An engine stepped by hand in this process, so that a test knows at which step a request is admitted.

vLLM's own ``LLMEngine`` with its engine core in this process: the scheduler's tables can be read between steps.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.engines import tagged
from tests.e2e.soak_load import Ask


@dataclass
class Choice:
    """One of a request's n answers as it arrived, piece by piece or at once."""

    admitted_at: dict[str, int] | None = None
    """Applied revisions at the engine step that scheduled its first token."""
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    decision: dict[str, Any] | None = None
    finish_reason: str | None = None
    stop_reason: Any = None


@dataclass
class Sent:
    """A request on its way."""

    ask: Ask
    name: str
    """Name that the test gave it, by which its outputs come back."""
    request_id: str
    """Name that vLLM gave it."""
    choices: list[Choice]
    sent_at: int
    admitted_at: int | None = None
    """Engine step that scheduled its first token."""
    aborted: bool = False

    @property
    def finished(self) -> bool:
        """Whether every choice has come to its end."""
        return all(choice.finish_reason is not None for choice in self.choices)


class SteppedEngine:
    """Wraps a started ``LLMEngine``; `applied` holds the revision of each codebook as the test has flipped it."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.applied: dict[str, int] = {}
        self.steps = self.flipped_at = 0
        self.live: dict[str, Sent] = {}
        self.counts: Counter[str] = Counter()
        self._scheduler = engine.engine_core.engine_core.scheduler
        self._waiting: dict[str, tuple[Sent, Choice]] = {}

    def send(self, ask: Ask) -> Sent:
        """Submit a request; it is admitted at some later step."""
        before = set(self._scheduler.requests)
        name = f"soak-{self.counts['sent']}"
        request_id = self.engine.add_request(name, {"prompt_token_ids": list(ask.prompt)}, sampling(ask))
        self.counts["sent"] += 1
        sent = Sent(ask, name, request_id, [Choice() for _ in range(ask.n)], self.steps)
        for internal in set(self._scheduler.requests) - before:
            # Choices of n > 1 are requests of their own, named by their index.
            index = int(internal.split("_", 1)[0]) if ask.n > 1 else 0
            self._waiting[internal] = (sent, sent.choices[index])
        self.live[name] = sent
        return sent

    def abort(self, sent: Sent) -> None:
        """Hang up on a request."""
        self.engine.abort_request([sent.request_id], internal=True)
        sent.aborted = True
        self._forget(sent)
        self.counts["aborted"] += 1

    def step(self) -> list[Sent]:
        """Run one engine step and return the requests that it finished."""
        outputs = self.engine.step()
        self.steps += 1
        self._note_admissions()
        done = []
        for output in outputs:
            sent = self.live.get(output.request_id)
            if sent is None:
                continue
            for completion in output.outputs:
                _take(sent.choices[completion.index], completion, delta=sent.ask.stream)
            if sent.finished:
                self._forget(sent)
                done.append(sent)
        return done

    @property
    def in_flight(self) -> int:
        """Requests that are neither finished nor aborted."""
        return len(self.live)

    def preempt_all(self) -> None:
        """Take the KV blocks of every running request, and forget the prefix cache."""
        self.engine.reset_prefix_cache(reset_running_requests=True)

    def preempted_now(self) -> int:
        """Count the requests that have lost their KV blocks and wait to be computed again."""
        return sum(request.status.name == "PREEMPTED" for request in self._scheduler.requests.values())

    def metric(self, name: str) -> float:
        """Return a counter of vLLM's, summed over its labels."""
        return float(sum(m.value for m in self.engine.get_metrics() if m.name == name and hasattr(m, "value")))

    def describe(self) -> dict[str, Any]:
        """Return what kind of engine this is, as it runs and not as it was asked for."""
        config = self.engine.vllm_config
        compilation = config.compilation_config
        return {
            "v2": config.use_v2_model_runner,
            "async_scheduling": self.engine.engine_core.engine_core.batch_queue is not None,
            # vLLM's backend cuts the graph at these ops; ours must be one of them.
            "backend_split": compilation.mode.name == "VLLM_COMPILE" and "horen::edit" in compilation.splitting_ops,
            "compilation": compilation.mode.name,
            "blocks": config.cache_config.num_gpu_blocks,
        }

    def complete(self, asks: Sequence[Ask]) -> list[Sent]:
        """Send requests at once and return them, in order, when all have finished."""
        sent = [self.send(ask) for ask in asks]
        while self.in_flight:
            self.step()
        return sent

    def settle(self) -> None:
        """Run the steps that only tell the workers what has finished, as a server's loop does."""
        while self._scheduler.has_requests():
            self.engine.step()

    def _note_admissions(self) -> None:
        for name, (sent, choice) in list(self._waiting.items()):
            request = self._scheduler.requests.get(name)
            # A request that is gone was scheduled, and finished, in this very step.
            if request is None or request.status.name != "WAITING":
                choice.admitted_at = dict(self.applied)
                sent.admitted_at = self.steps
                del self._waiting[name]

    def _forget(self, sent: Sent) -> None:
        del self.live[sent.name]
        self._waiting = {name: pair for name, pair in self._waiting.items() if pair[0] is not sent}


def sampling(ask: Ask) -> Any:
    """Return the sampling parameters of a request; always greedy in effect."""
    from vllm.sampling_params import RequestOutputKind

    greedy: dict[str, Any] = {}
    if ask.n > 1:
        # vLLM refuses n > 1 at temperature 0; this leaves only the likeliest token too.
        greedy = {"temperature": 1.0, "min_p": 1.0, "n": ask.n}
    return tagged(
        ask.codebook,
        ratio=ask.ratio,
        span=ask.span,
        explain=ask.explain,
        max_tokens=ask.max_tokens,
        ignore_eos=ask.ignore_eos,
        logprobs=ask.logprobs,
        stop=[ask.stop_text] if ask.stop_text else None,
        output_kind=RequestOutputKind.DELTA if ask.stream else RequestOutputKind.FINAL_ONLY,
        **greedy,
    )


def _take(choice: Choice, completion: Any, *, delta: bool) -> None:
    if choice.finish_reason is not None:
        return
    tokens = list(completion.token_ids)
    logprobs = [row[token].logprob for row, token in zip(completion.logprobs or (), tokens, strict=False)]
    if delta:
        choice.tokens += tokens
        choice.text += completion.text
        choice.logprobs += logprobs
    else:
        choice.tokens, choice.text, choice.logprobs = tokens, completion.text, logprobs
    choice.finish_reason, choice.stop_reason = completion.finish_reason, completion.stop_reason
    choice.decision = getattr(completion, "horen", None) or choice.decision
