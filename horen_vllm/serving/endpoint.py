"""The ``vllm.endpoint_plugins`` entry point: middleware, routes and the sync agent of one API server."""

import asyncio
from argparse import Namespace
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from horen_vllm.artifact import ArtifactFolder
from horen_vllm.control.client import HorenClient
from horen_vllm.errors import FailedPrecondition
from horen_vllm.fingerprint import model_fingerprint
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.decisions import tap
from horen_vllm.serving.engine import Engine, site_of
from horen_vllm.serving.listing import list_codebooks
from horen_vllm.serving.middleware import CodebookMiddleware
from horen_vllm.serving.settings import ServingSettings
from horen_vllm.serving.sync import SyncAgent

log = structlog.get_logger(__name__)


class HorenEndpoint:
    """vLLM constructs it when ``VLLM_PLUGINS`` names ``horen_serving``."""

    name = "horen_serving"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._settings = ServingSettings()
        self._served: ServedCodebooks | None = None
        self._agent: asyncio.Task[None] | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Add the middleware and the ``/horen/v1`` routes."""
        app.add_middleware(CodebookMiddleware, served=lambda: self._served)
        app.add_api_route("/horen/v1/status", self.status, methods=["GET"])

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Start serving codebooks once the engine stands.

        Raises
        ------
        FailedPrecondition
            ``no_edit_site``, ``model_folder_invalid`` or ``unsupported_engine_mode``.
        """
        _check_template(args)
        models = state.openai_serving_models
        base_names = [path.name for path in models.base_model_paths]
        site = site_of(engine_client)
        served = ServedCodebooks(base_names, stale_after_s=self._settings.lease_s)
        tap(engine_client, models)
        list_codebooks(models, served)
        self._served = served
        if self._settings.control is None:
            log.warning("HOREN_CONTROL is not set: no codebook will be served")
            return
        fingerprint = await asyncio.to_thread(model_fingerprint, args.model, site)

        agent = SyncAgent(
            client=HorenClient(self._settings.control),
            engine=Engine(engine_client, ArtifactFolder(self._settings.artifacts)),
            served=served,
            settings=self._settings,
            model=base_names[0],
            fingerprint=fingerprint,
        )
        self._agent = asyncio.create_task(agent.run())

    async def status(self) -> JSONResponse:
        """Answer ``GET /horen/v1/status``: what this replica serves and whether it hears the control plane."""
        served = self._served
        revisions = served.revisions() if served else {}
        body = {
            "replica_id": self._settings.replica_id,
            "stale": served is None or served.stale,
            "codebooks": {name.codebook: revision for name, revision in sorted(revisions.items())},
        }
        return JSONResponse(body)


def _check_template(args: Namespace) -> None:
    # Half of an edit's keys are made through the folder's own template; with another one they would never match.
    if getattr(args, "chat_template", None):
        message = "horen-vllm cannot serve edits with --chat-template: put the template into the model folder instead."
        raise FailedPrecondition(message, code="unsupported_engine_mode")
