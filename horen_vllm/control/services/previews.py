"""Previews: a question to the workers, for as long as its caller waits."""

import asyncio
from functools import partial
from typing import Final

from horen_vllm.control import convert, convert_previews, limits, names
from horen_vllm.control._pb.horen.v1 import edits_pb2
from horen_vllm.control.backend import Backend
from horen_vllm.control.messages import CollisionView, PreviewView
from horen_vllm.control.services.submissions import Submissions
from horen_vllm.errors import NotFound, Unavailable
from horen_vllm.registry.ports import Registry
from horen_vllm.registry.preview_records import Collision, PreviewAnswer

DEFAULT_WAIT_S: Final = 30.0
"""How long a worker is waited for when the caller has no deadline."""
_LONGEST_WAIT_S: Final = 600.0
_SPARE_S: Final = 0.25
"""What is left of the caller's time for the answer that nobody answered."""


class Previews:
    """Asks the workers.

    Parameters
    ----------
    registry
        Through which they are asked.
    submissions
        Know which codebooks they work for.
    backend
        Where blocking work runs.
    """

    def __init__(self, registry: Registry, submissions: Submissions, backend: Backend) -> None:
        self._registry = registry
        self._submissions = submissions
        self._backend = backend

    async def answer(
        self, request: edits_pb2.PreviewEditRequest, left_s: float | None
    ) -> edits_pb2.PreviewEditResponse:
        """Return what would become of an edit.

        Parameters
        ----------
        left_s
            Seconds that the caller waits; None: for ever.

        Raises
        ------
        Unavailable
            ``preview_timeout``, when no worker has answered by then.
        """
        codebook = names.requested_codebook(request.parent)
        spec = limits.check_spec(convert.spec_from_proto(request.spec))
        await self._submissions.check_model(codebook)
        wait_s = DEFAULT_WAIT_S if left_s is None else min(max(0.0, left_s - _SPARE_S), _LONGEST_WAIT_S)
        ask = partial(self._registry.ask_preview, codebook, spec, wait_s=wait_s)
        end = asyncio.get_running_loop().time() + wait_s
        preview = await self._backend.call(ask)
        try:
            async for answer in self._backend.poll(partial(self._look, preview)):
                if answer is not None:
                    view = await self._backend.call(partial(self._view, answer))
                    return convert_previews.preview_to_proto(view)
                if asyncio.get_running_loop().time() >= end:
                    raise _timeout(wait_s)
            raise AssertionError("polling ends only by an exception")
        finally:
            # Also when the caller has left, and this call is being cancelled.
            await asyncio.shield(self._backend.call(partial(self._registry.drop_preview, preview)))

    def _look(self, preview: str) -> PreviewAnswer | None:
        try:
            return self._registry.preview_answer(preview)
        except NotFound:
            return None  # its time is over, by the registry's clock

    def _view(self, answer: PreviewAnswer) -> PreviewView:
        return PreviewView(
            verdict=answer.verdict,
            revision=answer.revision,
            related=answer.related,
            collisions=tuple(map(self._collision, answer.collisions)),
            refusal_code=answer.refusal_code,
            refusal=answer.refusal,
        )

    def _collision(self, found: Collision) -> CollisionView:
        spec = self._registry.get_edit(found.edit_id).spec
        return CollisionView(
            edit_id=found.edit_id,
            text=found.text,
            score=found.score,
            threshold=found.threshold,
            prompt=spec.prompt,
            target=spec.target,
        )


def _timeout(wait_s: float) -> Unavailable:
    message = f"no worker has looked at the edit within {wait_s:.1f} s: is one running, and has it time?"
    return Unavailable(message, code="preview_timeout")
