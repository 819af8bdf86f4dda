"""Attach to a loaded model: find the edit site, allocate its buffers, hook the layer and the runner."""

import functools
from collections.abc import Callable
from typing import Any, Final

import structlog
import torch

from horen_vllm import __version__
from horen_vllm.errors import FailedPrecondition
from horen_vllm.kernels import dispatch
from horen_vllm.plugin import compat, graphs, op, refusals, runner_v1, self_check, static_books, step_output
from horen_vllm.plugin.codebooks import PagedCodebooks
from horen_vllm.plugin.engine_half import EngineHalf, keep
from horen_vllm.plugin.entries import EntryStore
from horen_vllm.plugin.ranks import Ranks
from horen_vllm.plugin.runner_v2 import V2Hooks
from horen_vllm.plugin.settings import EngineSettings
from horen_vllm.plugin.site import EditSite
from horen_vllm.plugin.staging import Stager
from horen_vllm.plugin.texts import texts_of

_MIB: Final = 1 << 20

log = structlog.get_logger(__name__)


def install(worker_class: Any) -> None:
    """Make every worker of this process attach right after it has loaded its model.

    At that moment weights are final and nothing is traced yet, and memory profiling still lies ahead, so the
    buffers are counted.
    """
    original = worker_class.load_model

    @functools.wraps(original)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        settings = EngineSettings.from_additional_config(self.vllm_config.additional_config)
        if settings is not None:
            attach(self, settings)
        return result

    worker_class.load_model = load_model


def attach(worker: Any, settings: EngineSettings) -> None:
    """Hook the edit site of `worker`'s model.

    Raises
    ------
    FailedPrecondition
        ``unknown_site``, ``unsupported_site``, ``unsupported_engine_mode``, or why a static codebook cannot be served.
    """
    config, runner = worker.vllm_config, worker.model_runner
    refusals.check_config(config)
    compat.check_runner_seams(runner)
    linear = find_site(runner.get_model(), settings.site)
    _prepare_compilation(config)
    site = _make_site(worker, linear, settings)
    op.register()
    op.hook(linear, settings.site, site)
    step_output.hook(runner, site)
    graphs.hook_graph_dispatch(runner, _hook_runner(runner, site))
    self_check.after_warm_up(worker, site)
    if settings.static_dir is not None:
        static_books.load(site.codebooks, settings.static_dir, config.model_config.model, settings.site)
    store = site.codebooks.store
    dispatch.warm_up(store.key_rows(store.d_in), config.model_config.dtype)
    keep(worker, EngineHalf(site, Stager(site.codebooks)))
    log.info("horen attached", site=settings.site, keys=store.keys.shape[0] // store.d_in)


def _hook_runner(runner: Any, site: EditSite) -> Callable[[Any], bool]:
    """Hook the runner and return whether a step (``SchedulerOutput``) may not be replayed from a FULL graph."""
    if compat.is_v2(runner):
        return V2Hooks(runner, site).forbids_full_graph
    runner_v1.hook(runner, site)
    return lambda _scheduler_output: site.must_run()


def find_site(model: torch.nn.Module, name: str) -> Any:
    """Return the linear layer `name`, checked to be one whose input and output the hook can trust.

    `name` is the model folder's, as in codebooks and fingerprints; vLLM may call the layer otherwise (gpt-oss).
    Under LoRA the name belongs to the wrapper, whose forward never calls its base layer's: the wrapper is returned.
    """
    own_name = compat.engine_name(model, name)
    wrapper: Any = dict(model.named_modules()).get(own_name)
    if wrapper is None:
        alias = "" if own_name == name else f" (in vLLM: {own_name})"
        message = f"the model has no module {name!r}{alias} to wrap."
        raise FailedPrecondition(message, code="unknown_site")
    linear = getattr(wrapper, "base_layer", wrapper)
    if not all(hasattr(linear, part) for part in ("input_size_per_partition", "output_size", "reduce_results")):
        message = f"{name!r} is a {type(linear).__name__}, not a row-parallel linear layer."
        raise FailedPrecondition(message, code="unsupported_site")
    if not linear.reduce_results or linear.skip_bias_add:
        message = f"{name!r} hands on a partial output, so a value cannot be added to it."
        raise FailedPrecondition(message, code="unsupported_site")
    # Fused activation-and-quantisation would hide the layer's input from the hook.
    wrapper.requires_unquantized_input = linear.requires_unquantized_input = True
    return wrapper


def _prepare_compilation(config: Any) -> None:
    # The compile cache is keyed by this dictionary: artefacts of another build must not be loaded, and the path of
    # static codebooks must not cause another compilation.
    # A new dictionary: with an engine in this process the old one is the caller's, who may start another with it.
    section = {name: value for name, value in config.additional_config["horen"].items() if name != "static_dir"}
    config.additional_config["horen"] = {**section, "build": __version__}
    splitting = config.compilation_config.splitting_ops
    if splitting and "horen::edit" not in splitting:
        splitting.append("horen::edit")
    if graphs.downgrade_cudagraph_mode(config):
        log.info("full CUDA graphs are kept to decode steps: a replayed graph cannot route a prompt")


def _make_site(worker: Any, linear: Any, settings: EngineSettings) -> EditSite:
    config, base = worker.vllm_config, getattr(linear, "base_layer", linear)
    dtype, d_in, d_out = config.model_config.dtype, base.input_size_per_partition, base.output_size
    group = compat.tensor_parallel_group()
    store = EntryStore(
        d_in=d_in,
        d_out=d_out,
        key_numbers=settings.key_budget_mib * _MIB // torch.float32.itemsize,
        num_values=settings.value_budget_mib * _MIB // (d_out * dtype.itemsize),
        dtype=dtype,
        device=worker.device,
        shard=(group.rank_in_group, group.world_size),
        poison=settings.poison_freed,
    )
    return EditSite(
        PagedCodebooks(store, texts=texts_of(config.model_config), subject_ranges=settings.subject_ranges),
        num_slots=config.scheduler_config.max_num_seqs,
        positions=compat.positions_buffer(worker.model_runner),
        ranks=Ranks(group) if group.world_size > 1 else None,
        slack=_slack(config.speculative_config),
        first_scores=settings.first_scores,
    )


def _slack(speculative_config: Any) -> int:
    # With async scheduling two steps may be counted before their drafts are judged.
    return 0 if speculative_config is None else 2 * (speculative_config.num_speculative_tokens + 1)
