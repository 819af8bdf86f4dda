"""Which seams of vLLM are wrapped, once a process."""

from typing import Final

from horen_vllm.plugin import attach, cache_rules, rpc
from horen_vllm.plugin.compat import check_parameters, check_version, vllm_version

_MARK: Final = "_horen_installed"


def install() -> None:
    """Wrap ``Worker.load_model`` and the prefix-cache rules; harmless when called again."""
    from vllm.v1.worker.gpu_worker import Worker  # noqa: PLC0415 - importing vLLM early has side effects

    if getattr(Worker, _MARK, False):
        return
    check_version(vllm_version())
    check_parameters(Worker.load_model, ("self", "load_dummy_weights"))
    cache_rules.install()
    attach.install(Worker)
    rpc.install(Worker)
    setattr(Worker, _MARK, True)
