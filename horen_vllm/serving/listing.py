"""Codebooks in ``/v1/models``."""

import functools
from typing import Any

from horen_vllm.serving.codebooks import ServedCodebooks


def list_codebooks(models: Any, served: ServedCodebooks) -> None:
    """Make vLLM's model list name every ``NAME@CODEBOOK`` beside the clean model.

    Only the list: a route that does not pass the middleware must go on refusing these names, or it would answer
    for a codebook with the clean model.
    """
    original = models.show_available_models

    @functools.wraps(original)
    async def show_available_models() -> Any:
        listed = await original()
        clean = listed.data[0]
        listed.data.extend(clean.model_copy(update={"id": name, "parent": clean.id}) for name in served.model_names())
        return listed

    models.show_available_models = show_available_models
