"""Which seams of vLLM are wrapped, once a process."""

import os
from typing import Final

from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin import admission, attach, cache_rules, compat, outputs, rpc

_MARK: Final = "_horen_installed"


def install() -> None:
    """Wrap ``Worker.load_model``, the prefix-cache rules and the outputs; harmless when called again.

    Raises
    ------
    FailedPrecondition
        ``unsupported_vllm``, or ``authentication_off`` when keys are asked for and nothing would check them.
    """
    from vllm.v1.worker.gpu_worker import Worker  # noqa: PLC0415 - importing vLLM early has side effects

    if getattr(Worker, _MARK, False):
        return
    _check_authentication()
    compat.check_version(compat.vllm_version())
    compat.check_seams(compat.ENGINE_SEAMS)
    admission.install()
    cache_rules.install()
    outputs.install()
    attach.install(Worker)
    rpc.install(Worker)
    setattr(Worker, _MARK, True)


def _check_authentication() -> None:
    # The half that asks for keys loads only if VLLM_PLUGINS names it: without it, every caller would be served.
    if os.environ.get("HOREN_AUTH") == "keys" and "horen_serving" not in os.environ.get("VLLM_PLUGINS", "").split(","):
        message = "HOREN_AUTH=keys asks for keys, but nothing would: set VLLM_PLUGINS=horen,horen_serving."
        raise FailedPrecondition(message, code="authentication_off")
