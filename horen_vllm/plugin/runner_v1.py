"""Hooks on vLLM's V1 model runner: the batch before each forward, the end of requests, the decisions after it.

Why: only the runner knows which requests make up a flattened batch.
How: methods of the runner instance are wrapped; the runner's own results pass through untouched.
Remove when: vLLM offers a per-step callback with the batch order.
"""

from collections.abc import Iterator
from typing import Any

from horen_vllm.plugin.compat import check_parameters
from horen_vllm.plugin.plan import BatchRow
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.tag import tag_of

DECISIONS_ATTRIBUTE = "horen_decisions"
"""Attribute of ``ModelRunnerOutput`` that carries fresh decisions to the engine core."""


def hook(runner: Any, site: EditSite) -> None:
    """Wrap the runner's step methods for `site`."""
    check_parameters(runner._prepare_inputs, ("scheduler_output", "num_scheduled_tokens"))
    _hook_prepare(runner, site)
    _hook_execute(runner, site)
    _hook_dummy(runner, site)
    _hook_sample(runner, site)


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
        yield BatchRow(
            request_id=request_id,
            tag=tag_of(runner.requests[request_id].sampling_params),
            first_row=first_row,
            num_tokens=num_tokens,
            num_computed=int(batch.num_computed_tokens_cpu[index]),
            prompt_length=int(batch.num_prompt_tokens[index]),
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


def _hook_sample(runner: Any, site: EditSite) -> None:
    original = runner.sample_tokens

    def sample_tokens(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        decisions = site.take_decisions()
        if decisions and output is not None:
            _attach_decisions(output, decisions)
        return output

    runner.sample_tokens = sample_tokens


def _attach_decisions(output: Any, decisions: dict[str, dict[str, Any]]) -> None:
    if not hasattr(output, "get_output"):
        setattr(output, DECISIONS_ATTRIBUTE, decisions)
        return
    # Async scheduling: the real output is made later, on the output thread.
    original = output.get_output

    def get_output() -> Any:
        result = original()
        setattr(result, DECISIONS_ATTRIBUTE, decisions)
        return result

    output.get_output = get_output
