"""Stand-ins of vLLM's two model runners: the same names, called in the same order, around a tiny layer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

SLOTS = 8
Forward = Callable[[list[str], list[int], bool], None]
"""Computes the layer for the batch's request ids and token counts; the flag says that a full graph is replayed."""


@dataclass
class Scheduled:
    """The parts of a ``SchedulerOutput`` that the hooks and the stand-ins read."""

    num_scheduled_tokens: dict[str, int]
    begun: dict[str, SimpleNamespace] = field(default_factory=dict)
    """New and resumed requests of the step, as ``NewRequestData``."""
    num_computed: dict[str, int] = field(default_factory=dict)
    finished_req_ids: set[str] = field(default_factory=set)
    preempted_req_ids: set[str] | None = None


class V1Runner:
    """The V1 runner's life of a batch. Its tables are longer than the batch, and in an order of its own."""

    def __init__(self, positions: torch.Tensor, forward: Forward) -> None:
        self.positions, self.forward = positions, forward
        self.output: Any = None
        self.allows_full_graph: Callable[[Any], bool] = lambda _step: False
        self.requests: dict[str, SimpleNamespace] = {}
        self.input_batch = SimpleNamespace(num_reqs=0, req_ids=[], num_computed_tokens_cpu=[], num_prompt_tokens=[])

    def execute_model(self, scheduler_output: Scheduled, intermediate_tensors: Any = None) -> str:
        for name in scheduler_output.finished_req_ids:
            self.requests.pop(name, None)
        self.requests |= scheduler_output.begun
        names = sorted(scheduler_output.num_scheduled_tokens, reverse=True)
        batch = self.input_batch
        batch.num_reqs, batch.req_ids = len(names), [*names, "gone"]
        batch.num_computed_tokens_cpu = np.array([*(scheduler_output.num_computed[name] for name in names), 3])
        batch.num_prompt_tokens = np.array([*(self.requests[name].prompt_len for name in names), 7])
        if not names:
            return "empty"
        counts = [scheduler_output.num_scheduled_tokens[name] for name in names]
        assert self._prepare_inputs(scheduler_output, np.array(counts)) == ("logits", None)
        self.forward(names, counts, self.allows_full_graph(scheduler_output))
        return "executed"

    def _prepare_inputs(self, scheduler_output: Scheduled, num_scheduled_tokens: Any) -> tuple[str, None]:
        batch = self.input_batch
        done = batch.num_computed_tokens_cpu
        columns = [
            torch.arange(int(done[i]), int(done[i] + count)) for i, count in enumerate(num_scheduled_tokens.tolist())
        ]
        self.positions[: sum(map(len, columns))] = torch.cat(columns)
        return "logits", None

    def sample_tokens(self, grammar_output: Any) -> Any:
        return self.output

    def _dummy_run(self, num_tokens: int, **_kwargs: Any) -> int:
        self.forward([], [num_tokens], False)
        return num_tokens


class V2Runner:
    """The V2 runner's life of a batch: short requests first, states in slots of their own."""

    def __init__(self, positions: torch.Tensor, forward: Forward) -> None:
        self.input_buffers = SimpleNamespace(positions=positions)
        self.forward = forward
        self.output: Any = None
        self.allows_full_graph: Callable[[Any], bool] = lambda _step: False
        self.model_state = V2State()
        prompt_len = SimpleNamespace(np=np.zeros(SLOTS, dtype=np.int32))
        self.req_states = SimpleNamespace(req_id_to_index={}, prompt_len=prompt_len)
        self._free = list(range(SLOTS))

    def execute_model(self, scheduler_output: Scheduled, intermediate_tensors: Any = None) -> str:
        self.finish_requests(scheduler_output)
        self.add_requests(scheduler_output)
        scheduled = scheduler_output.num_scheduled_tokens
        if not scheduled:
            return "empty"
        replayed = self.allows_full_graph(scheduler_output)
        names = sorted(scheduled, key=lambda name: (scheduled[name], name))
        counts = [scheduled[name] for name in names]
        starts = np.cumsum([0, *counts])
        done = np.array([scheduler_output.num_computed[name] for name in names])
        positions = [torch.arange(int(first), int(first) + count) for first, count in zip(done, counts, strict=True)]
        self.input_buffers.positions[: int(starts[-1])] = torch.cat(positions)
        batch = SimpleNamespace(
            req_ids=names,
            num_reqs=len(names),
            idx_mapping_np=np.array([self.req_states.req_id_to_index[name] for name in names]),
            num_scheduled_tokens=np.array(counts),
            query_start_loc_np=starts,
            num_computed_tokens_np=done,
        )
        assert self.model_state.prepare_inputs(batch, self.req_states) == {"positions": names}
        self.forward(names, counts, replayed)
        return "executed"

    def finish_requests(self, scheduler_output: Scheduled) -> None:
        ended = scheduler_output.finished_req_ids | (scheduler_output.preempted_req_ids or set())
        for name in sorted(ended):
            self._remove_request(name)

    def add_requests(self, scheduler_output: Scheduled) -> None:
        for name, data in scheduler_output.begun.items():
            self._remove_request(name)
            index = self.req_states.req_id_to_index[name] = self._free.pop()
            self.req_states.prompt_len.np[index] = data.prompt_len
            self.model_state.add_request(index, data)

    def _remove_request(self, name: str) -> None:
        self.model_state.remove_request(name)
        index = self.req_states.req_id_to_index.pop(name, None)
        if index is not None:
            self._free.append(index)

    def sample_tokens(self, grammar_output: Any) -> Any:
        return self.output

    def _dummy_run(self, num_tokens: int, **_kwargs: Any) -> int:
        batch = SimpleNamespace(req_ids=["_dummy_0"], num_reqs=1)
        self.model_state.prepare_inputs(batch, self.req_states)
        self.forward([], [num_tokens], False)
        return num_tokens

    def capture(self, num_tokens: int) -> None:
        """Run the layer as graph capture does."""
        assert self.model_state.prepare_dummy_inputs(1, num_tokens) == {"dummy": num_tokens}
        self.forward([], [num_tokens], False)


class V2State:
    """The V2 runner's model state, which passes what it is given."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.removed: list[str] = []

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        self.added.append(new_req_data.req_id)

    def remove_request(self, req_id: str) -> None:
        self.removed.append(req_id)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        return {"positions": input_batch.req_ids}

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        return {"dummy": num_tokens}
