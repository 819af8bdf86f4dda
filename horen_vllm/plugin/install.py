"""Which seams of vLLM are wrapped, once a process."""

from typing import Final

from horen_vllm.plugin import admission, amx, attach, cache_rules, compat, outputs, rpc

_MARK: Final = "_horen_installed"


def install() -> None:
    """Wrap ``Worker.load_model``, the prefix-cache rules and the outputs; harmless when called again.

    Raises
    ------
    FailedPrecondition
        ``unsupported_vllm``.
    """
    from vllm.v1.worker.gpu_worker import Worker  # noqa: PLC0415 - importing vLLM early has side effects

    if getattr(Worker, _MARK, False):
        return
    compat.check_version(compat.vllm_version())
    compat.check_seams(compat.ENGINE_SEAMS)
    amx.request_tiles()
    admission.install()
    cache_rules.install()
    outputs.install()
    attach.install(Worker)
    rpc.install(Worker)
    setattr(Worker, _MARK, True)
