"""Attach to a loaded model: find the edit site, allocate its buffers, hook the layer and the runner."""

import functools
from typing import Any, Final

import structlog
import torch

from horen_vllm import __version__
from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin import op, refusals, runner_v1
from horen_vllm.plugin.codebooks import PagedCodebooks
from horen_vllm.plugin.settings import EngineSettings
from horen_vllm.plugin.site import EditSite

SITE_ATTRIBUTE: Final = "horen_site"
"""Where a worker keeps its `EditSite`."""
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
        ``unknown_site``, ``unsupported_site`` or ``unsupported_engine_mode``.
    """
    config, runner = worker.vllm_config, worker.model_runner
    refusals.check_config(config)
    refusals.check_runner(runner, worker.device.type, eager=config.model_config.enforce_eager)
    linear = find_site(runner.get_model(), settings.site)
    # The compile cache is keyed by this dictionary: artefacts of another build must not be loaded.
    config.additional_config["horen"]["build"] = __version__
    splitting = config.compilation_config.splitting_ops
    if splitting and "horen::edit" not in splitting:
        splitting.append("horen::edit")
    site = _make_site(worker, linear, settings)
    op.register()
    op.hook(linear, settings.site, site)
    runner_v1.hook(runner, site)
    setattr(worker, SITE_ATTRIBUTE, site)
    log.info("horen attached", site=settings.site, keys=site.codebooks.keys.shape[0])


def find_site(model: torch.nn.Module, name: str) -> Any:
    """Return the linear layer `name`, checked to be one whose input and output the hook can trust."""
    linear: Any = dict(model.named_modules()).get(name)
    if linear is None:
        message = f"the model has no module {name!r} to wrap."
        raise FailedPrecondition(message, code="unknown_site")
    if not hasattr(linear, "input_size_per_partition") or not hasattr(linear, "output_size"):
        message = f"{name!r} is a {type(linear).__name__}, not a row-parallel linear layer."
        raise FailedPrecondition(message, code="unsupported_site")
    if not linear.reduce_results or linear.skip_bias_add:
        message = f"{name!r} hands on a partial output, so a value cannot be added to it."
        raise FailedPrecondition(message, code="unsupported_site")
    # Fused activation-and-quantisation would hide the layer's input from the hook.
    linear.requires_unquantized_input = True
    return linear


def _make_site(worker: Any, linear: Any, settings: EngineSettings) -> EditSite:
    config = worker.vllm_config
    dtype, d_in, d_out = config.model_config.dtype, linear.input_size_per_partition, linear.output_size
    codebooks = PagedCodebooks(
        d_in=d_in,
        d_out=d_out,
        num_keys=settings.key_budget_mib * _MIB // (d_in * torch.float32.itemsize),
        num_values=settings.value_budget_mib * _MIB // (d_out * dtype.itemsize),
        dtype=dtype,
        device=worker.device,
    )
    positions = worker.model_runner.positions
    return EditSite(
        codebooks,
        num_slots=config.scheduler_config.max_num_seqs,
        max_tokens=positions.shape[0],
        positions=positions,
    )
