"""Codebooks in ``/v1/models``."""

import functools
from typing import Any

from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.tenant import current_tenant


def list_codebooks(models: Any, served: ServedCodebooks) -> None:
    """Make vLLM's model list name every ``NAME@CODEBOOK`` of the caller's tenant beside the clean model.

    Only the list: a route that does not pass the middleware must go on refusing these names, or it would answer
    for a codebook with the clean model.
    """
    original = models.show_available_models

    @functools.wraps(original)
    async def show_available_models() -> Any:
        listed = await original()
        clean = listed.data[0]
        names = served.model_names(current_tenant())
        listed.data.extend(clean.model_copy(update={"id": name, "parent": clean.id}) for name in names)
        return listed

    models.show_available_models = show_available_models
