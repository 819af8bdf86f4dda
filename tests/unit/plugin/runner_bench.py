"""A hooked runner that serves requests of the simulation, every output row compared with the reference."""

from types import SimpleNamespace
from typing import Any

import torch

from horen_vllm.core.presets import ValueMode
from horen_vllm.plugin import runner_v1, step_output
from horen_vllm.plugin.codebooks import Update
from horen_vllm.plugin.runner_v2 import V2Hooks
from horen_vllm.plugin.site import EditSite
from tests.unit.plugin.entries import D_IN, D_OUT, Numbered, make_codebooks, make_entry, parameters, publish, update_of
from tests.unit.plugin.runners import SLOTS, Scheduled, V1Runner, V2Runner
from tests.unit.plugin.simulation import Book, Request, is_same
from tests.unit.plugin.spoken import spoken_texts


class RunnerBench:
    """An edit site, a stand-in runner with its hooks, and what every row must be."""

    def __init__(self, version: str, num_slots: int = SLOTS) -> None:
        self.generator = torch.Generator().manual_seed(0)
        positions = torch.zeros(64, dtype=torch.int64)
        codebooks = make_codebooks(256, 256, texts=spoken_texts())
        self.site = EditSite(codebooks, num_slots=num_slots, positions=positions)
        self.runner: Any = (V1Runner if version == "v1" else V2Runner)(positions, self._forward)
        if version == "v1":
            runner_v1.hook(self.runner, self.site)
            self.runner.allows_full_graph = lambda _step: not self.site.must_run()
        else:
            hooks = V2Hooks(self.runner, self.site)
            self.runner.allows_full_graph = lambda step: not hooks.forbids_full_graph(step)
        step_output.hook(self.runner, self.site)
        self.books: dict[str, Book] = {}
        self.running: dict[str, Request] = {}
        self.replayed: list[bool] = []
        self.edited = 0

    def publish(self, revision: int, *entries: Numbered) -> None:
        """Make these entries the whole of codebook "a"."""
        publish(self.site.codebooks, update_of("a", revision, entries, rule=parameters(0.97)))
        self.books["a"] = Book(revision, 0.97, list(entries))

    def publish_book(self, update: Update, book: Book) -> None:
        """Make an update of codebook "a" current; `book` says what it must do."""
        publish(self.site.codebooks, update)
        self.books["a"] = book

    def request(self, name: str, prompt: int = 4, *, codebook: str | None = "a", total: int = 12) -> Request:
        """Return a new request with random site inputs."""
        return Request(name, codebook, prompt, torch.randn(total, D_IN, generator=self.generator))

    def step(self, *batch: tuple[Request, int], finished: Any = (), preempted: Any = None, output: Any = None) -> Any:
        """Run one engine step; a request that is not running begins or resumes. Return what it sampled."""
        for name in {*finished, *(preempted or ())}:
            self.running.pop(name, None)
        begun = {request.name: new_data(request) for request, _ in batch if request.name not in self.running}
        for request, _ in batch:
            self.running[request.name] = request
            if request.book is None and request.codebook is not None:
                request.book = self.books.get(request.codebook)
        scheduled = Scheduled(
            num_scheduled_tokens={request.name: count for request, count in batch},
            begun=begun,
            num_computed={request.name: request.done for request, _ in batch},
            finished_req_ids=set(finished),
            preempted_req_ids=None if preempted is None else set(preempted),
        )
        assert self.runner.execute_model(scheduled) == ("executed" if batch else "empty")
        for request, count in batch:
            request.done += count
        self.runner.output = output
        return self.runner.sample_tokens(None)

    def _forward(self, names: list[str], counts: list[int], replayed: bool) -> None:
        if not names:
            self.compute(torch.randn(counts[0], D_IN), replayed=False)
            return
        self.replayed.append(replayed)
        batch = [(self.running[name], count) for name, count in zip(names, counts, strict=True)]
        hidden = [request.inputs[request.done : request.done + count] for request, count in batch]
        clean, outputs = self.compute(torch.cat([*hidden, torch.randn(2, D_IN)]), replayed=replayed)
        row = 0
        for request, count in batch:
            for position in range(request.done, request.done + count):
                expected = request.expected(position, clean[row])
                assert is_same(request, outputs[row], expected), (request.name, position)
                self.edited += not torch.equal(expected, clean[row])
                row += 1
        assert torch.equal(outputs[row:], clean[row:])

    def compute(self, inputs: torch.Tensor, *, replayed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the layer; of a replayed graph only what was captured happens: the injection."""
        clean = torch.randn(len(inputs), D_OUT, generator=self.generator)
        outputs = clean.clone()
        if replayed:
            self.site._inject(outputs)
        else:
            self.site.run(inputs, outputs)
        return clean, outputs


def new_data(request: Request) -> SimpleNamespace:
    """Return a request as the scheduler sends it."""
    extra = request.tag.to_extra_args() if request.tag else None
    sampling = SimpleNamespace(extra_args=extra)
    return SimpleNamespace(
        req_id=request.name, prompt_len=request.prompt, prompt_token_ids=request.prompt_ids, sampling_params=sampling
    )


def entry_for(request: Request, *, span: int, number: int = 1) -> Numbered:
    """Return an entry that the request's window matches exactly."""
    key = torch.nn.functional.normalize(request.inputs[slice(*request.window)].mean(dim=0, keepdim=True), dim=-1)
    return number, make_entry(f"e{number}", keys=key, span=span, mode=ValueMode.SEQUENCE, seed=number)
