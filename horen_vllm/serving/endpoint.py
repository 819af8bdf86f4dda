"""The ``vllm.endpoint_plugins`` entry point: middleware, routes and live updates of one API server."""

import asyncio
import functools
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from horen_vllm.errors import FailedPrecondition, HorenError
from horen_vllm.fingerprint import model_fingerprint
from horen_vllm.plugin.compat import API_SEAMS, check_seams
from horen_vllm.plugin.guard import guarded
from horen_vllm.serving.auth import add_authentication, isolation_of
from horen_vllm.serving.binding import check_binding
from horen_vllm.serving.codebooks import ServedCodebooks
from horen_vllm.serving.decisions import tap
from horen_vllm.serving.engine import Engine, site_of
from horen_vllm.serving.explain import ExplainRoute
from horen_vllm.serving.gauges import keep_gauges
from horen_vllm.serving.listing import list_codebooks
from horen_vllm.serving.live import LiveUpdates
from horen_vllm.serving.metrics import ServingMetrics
from horen_vllm.serving.middleware import CodebookMiddleware
from horen_vllm.serving.probe import engine_ask
from horen_vllm.serving.responses import answer_refusal
from horen_vllm.serving.settings import ServingSettings
from horen_vllm.serving.startup import live_updates, serve_static, static_dir_of
from horen_vllm.serving.status import status_body
from horen_vllm.serving.tenant import current_tenant

log = structlog.get_logger(__name__)


class HorenEndpoint:
    """vLLM constructs it when ``VLLM_PLUGINS`` names ``horen_serving``."""

    name = "horen_serving"
    required_tasks = ("generate",)

    _settings: ServingSettings

    def __init__(self) -> None:
        self._served: ServedCodebooks | None = None
        self._metrics: ServingMetrics | None = None
        self._live: LiveUpdates | None = None
        self._tokenizer: Any = None
        self._tasks: list[asyncio.Task[None]] = []

    def attach_router(self, app: FastAPI) -> None:
        """Add the middleware and the ``/horen/v1`` routes; an exception ends the server."""
        # Not in the constructor: vLLM logs its exceptions and serves on without the plugin, so without asking for keys.
        self._settings = ServingSettings()
        self._metrics = ServingMetrics()
        app.add_middleware(
            CodebookMiddleware,
            served=lambda: self._served,
            metrics=self._metrics,
            isolate=isolation_of(self._settings),
        )
        # Outside of the other, which it goes through with the real request.
        app.add_middleware(ExplainRoute, texts=self._token_texts)
        app.add_exception_handler(HorenError, answer_refusal)
        app.add_api_route("/horen/v1/status", self.status, methods=["GET"])
        # Last, so that nothing of ours runs before it.
        add_authentication(app, self._settings)
        guarded()

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Start serving codebooks once the engine stands; return when they are loaded, or `startup_wait_s` later.

        Raises
        ------
        FailedPrecondition
            ``no_edit_site``, ``model_folder_invalid``, ``unsupported_engine_mode``, ``unsupported_vllm``, or as
            `check_binding`, `serve_static` and `live_updates`.
        """
        check_seams(API_SEAMS)
        _check_template(args)
        check_binding(self._settings, args)
        self._settings = _named(self._settings, args)
        metrics = self._metrics
        assert metrics is not None, "vLLM attaches the routes before it initialises their state"
        models = state.openai_serving_models
        base_names = [path.name for path in models.base_model_paths]
        site = site_of(engine_client)
        served = ServedCodebooks(base_names, stale_after_s=self._settings.lease_s)
        # Before the tap, which takes the tags off requests that came by no route of ours.
        ask = engine_ask(engine_client.generate)
        tap(engine_client, models)
        self._tokenizer = engine_client.renderer.tokenizer
        list_codebooks(models, served)
        self._served = served
        if (folder := static_dir_of(engine_client)) is not None:
            await serve_static(folder, served, self._settings)
        elif self._settings.control is None:
            log.warning("HOREN_CONTROL is not set: no codebook will be served")
            return
        else:
            self._live = live_updates(
                engine_client=engine_client,
                control=self._settings.control,
                settings=self._settings,
                served=served,
                ask=ask,
                observer=metrics,
                model=base_names[0],
                fingerprint=await asyncio.to_thread(model_fingerprint, args.model, site),
            )
            await self._start(self._live)
        engine = Engine(engine_client, stage_timeout_s=self._settings.stage_timeout_s)
        report = functools.partial(self._engine_report, engine)
        self._tasks.append(asyncio.create_task(keep_gauges(metrics, served, report)))

    def _token_texts(self, token_ids: Sequence[int]) -> list[str]:
        return [self._tokenizer.decode([token]) for token in token_ids]

    async def _start(self, live: LiveUpdates) -> None:
        task = asyncio.create_task(live.run())
        task.add_done_callback(_log_end)
        self._tasks.append(task)
        wait_s = self._settings.startup_wait_s
        if not await live.wait_ready(wait_s):
            log.warning(
                "the current revisions are not loaded yet: codebooks answer 503 until they are", waited_s=wait_s
            )

    async def _engine_report(self, engine: Engine) -> dict[str, Any] | None:
        # One of the API servers asks the engine on behalf of all.
        return await engine.status() if self._live is None or self._live.leading else None

    async def status(self) -> JSONResponse:
        """Answer ``GET /horen/v1/status``: what this replica serves and whether it hears the control plane."""
        state = self._live.state if self._live else None
        body = status_body(self._settings.replica_id, self._served, state, current_tenant())
        return JSONResponse({**body, "auth": self._settings.auth})


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("live updates ended: codebooks will answer 503", exc_info=task.exception())


def _named(settings: ServingSettings, args: Namespace) -> ServingSettings:
    if "replica_id" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"replica_id": f"{settings.replica_id}-{args.port}"})


def _check_template(args: Namespace) -> None:
    # Half of an edit's keys are made through the folder's own template; with another one they would never match.
    if getattr(args, "chat_template", None):
        message = "horen-vllm cannot serve edits with --chat-template: put the template into the model folder instead."
        raise FailedPrecondition(message, code="unsupported_engine_mode")
