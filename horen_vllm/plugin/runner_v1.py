"""Hooks on vLLM's V1 model runner: the batch before each forward pass, and the end of requests.

Why: only the runner knows which requests make up a flattened batch.
How: methods of the runner instance are wrapped; the runner's own results pass through untouched.
"""

from collections.abc import Iterator
from typing import Any

from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import tag_of


def hook(runner: Any, site: EditSite) -> None:
    """Wrap the runner's step methods for `site`."""
    _hook_prepare(runner, site)
    _hook_execute(runner, site)
    _hook_dummy(runner, site)


def _hook_prepare(runner: Any, site: EditSite) -> None:
    original = runner._prepare_inputs

    def prepare_inputs(scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        result = original(scheduler_output, num_scheduled_tokens)
        site.begin_step(_batch_rows(runner, num_scheduled_tokens))
        return result

    runner._prepare_inputs = prepare_inputs


def _batch_rows(runner: Any, num_scheduled_tokens: Any) -> Iterator[BatchRow]:
    batch, first_row = runner.input_batch, 0
    for index in range(batch.num_reqs):
        request_id, num_tokens = batch.req_ids[index], int(num_scheduled_tokens[index])
        state = runner.requests[request_id]
        tag = tag_of(state.sampling_params)
        if tag is not None:
            yield BatchRow(
                request_id=request_id,
                tag=tag,
                first_row=first_row,
                num_tokens=num_tokens,
                num_computed=int(batch.num_computed_tokens_cpu[index]),
                prompt_length=int(batch.num_prompt_tokens[index]),
                prompt_ids=state.prompt_token_ids,
            )
        first_row += num_tokens


def _hook_execute(runner: Any, site: EditSite) -> None:
    original = runner.execute_model

    def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        # Not in _prepare_inputs: requests also end in steps that schedule no token.
        for request_id in scheduler_output.finished_req_ids:
            site.requests.finish(request_id)
        for request_id in scheduler_output.preempted_req_ids or ():
            site.requests.preempt(request_id)
        return original(scheduler_output, *args, **kwargs)

    runner.execute_model = execute_model


def _hook_dummy(runner: Any, site: EditSite) -> None:
    original = runner._dummy_run

    def dummy_run(*args: Any, **kwargs: Any) -> Any:
        site.clear()
        return original(*args, **kwargs)

    runner._dummy_run = dummy_run
