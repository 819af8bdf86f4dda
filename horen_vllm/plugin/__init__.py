"""The engine half: hooks one linear layer of a served model and routes requests through paged codebooks."""


def register() -> None:
    """Install the hooks in this vLLM process; the ``vllm.general_plugins`` entry point.

    vLLM calls it in every process, often more than once and before any configuration exists, so it is
    re-entrant, and attaches to nothing until ``additional_config`` has a ``horen`` section.

    Raises
    ------
    FailedPrecondition
        ``unsupported_vllm``, when this vLLM is outside the tested range.
    """
    from horen_vllm.plugin import install  # noqa: PLC0415 - vLLM may only be imported once it calls us

    install.install()
