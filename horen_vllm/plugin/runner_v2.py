"""Hooks on vLLM's V2 model runner: the batch before each forward pass, and the end of requests.

Why: only the runner knows which requests make up a flattened batch.
How: methods of the runner and of its model state are wrapped on the instances; their own results pass through.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import RequestTag, tag_of


class V2Hooks:
    """The wrappers of one runner, and the tags and prompts of the tagged requests that it holds."""

    def __init__(self, runner: Any, site: EditSite) -> None:
        self._site = site
        self._tags: dict[str, tuple[RequestTag, Sequence[int] | None]] = {}
        self._hook_requests(runner, runner.model_state)
        self._hook_steps(runner.model_state)

    def forbids_full_graph(self, scheduler_output: Any) -> bool:
        """Whether a step computes prompt tokens of a request that is still to be routed."""
        undecided = self._site.requests.is_undecided
        return any(name in self._tags and undecided(name) for name in scheduler_output.num_scheduled_tokens)

    def _hook_requests(self, runner: Any, state: Any) -> None:
        add, remove, finish = state.add_request, state.remove_request, runner.finish_requests

        def add_request(req_index: int, new_req_data: Any) -> None:
            add(req_index, new_req_data)
            tag = tag_of(new_req_data.sampling_params)
            if tag is not None:
                self._tags[new_req_data.req_id] = (tag, new_req_data.prompt_token_ids)

        def remove_request(req_id: str) -> None:
            remove(req_id)
            self._tags.pop(req_id, None)

        def finish_requests(scheduler_output: Any) -> None:
            # remove_request is called for finished and preempted ones alike; only here they can be told apart.
            for request_id in scheduler_output.finished_req_ids:
                self._site.requests.finish(request_id)
            for request_id in scheduler_output.preempted_req_ids or ():
                self._site.requests.preempt(request_id)
            finish(scheduler_output)

        state.add_request, state.remove_request = add_request, remove_request
        runner.finish_requests = finish_requests

    def _hook_steps(self, state: Any) -> None:
        prepare, prepare_dummy = state.prepare_inputs, state.prepare_dummy_inputs

        def prepare_inputs(input_batch: Any, req_states: Any) -> Any:
            result = prepare(input_batch, req_states)
            names = input_batch.req_ids
            if names and names[0] in req_states.req_id_to_index:
                self._site.begin_step(self._rows(input_batch, req_states))
            else:
                self._site.clear()
            return result

        def prepare_dummy_inputs(*args: Any, **kwargs: Any) -> Any:
            self._site.clear()
            return prepare_dummy(*args, **kwargs)

        state.prepare_inputs, state.prepare_dummy_inputs = prepare_inputs, prepare_dummy_inputs

    def _rows(self, batch: Any, req_states: Any) -> Iterator[BatchRow]:
        for index, request_id in enumerate(batch.req_ids) if self._tags else ():
            known = self._tags.get(request_id)
            if known is None:
                continue
            tag, prompt_ids = known
            yield BatchRow(
                request_id=request_id,
                tag=tag,
                first_row=int(batch.query_start_loc_np[index]),
                num_tokens=int(batch.num_scheduled_tokens[index]),
                num_computed=int(batch.num_computed_tokens_np[index]),
                prompt_length=int(req_states.prompt_len.np[batch.idx_mapping_np[index]]),
                prompt_ids=prompt_ids,
            )
