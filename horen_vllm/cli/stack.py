"""The embedded system: control plane, editor worker and vLLM server of one home, as child processes."""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from horen_vllm.cli.connection import CLEAR_TEXT
from horen_vllm.cli.control import CONTROL_TLS
from horen_vllm.cli.layout import Endpoints, HomeLayout
from horen_vllm.cli.model_folder import ModelFolder, open_model_folder
from horen_vllm.cli.part import PartSpec
from horen_vllm.cli.ports import LOOPBACK, claim_port
from horen_vllm.cli.probes import control_serving, server_serving
from horen_vllm.cli.server_command import (
    ServerDtype,
    ServerSettings,
    check_reach,
    server_command,
    server_environment,
)
from horen_vllm.cli.supervisor import Supervisor
from horen_vllm.errors import InvalidArgument

if TYPE_CHECKING:
    from horen_vllm.control.messages import CodebookView

DEFAULT_PORT: Final = 8000
DEFAULT_CONTROL_PORT: Final = 8950
CONTROL, WORKER, SERVER = "control", "worker", "server"
TITLES: Final = {CONTROL: "control plane", WORKER: "editor worker", SERVER: "vLLM server"}
"""What people call the parts."""
_NICENESS: Final = {CONTROL: 0, SERVER: 5, WORKER: 5}
"""vLLM's processes spin while they wait for each other: at an equal priority they hold a call of the control plane up
for seconds when the cores are few. So would an editor that trains."""
_WORKER_MEMORY_MIB: Final = 1024
"""The worker's own choice, a share of what is free when it starts, would be made before vLLM has taken its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """What an embedded system serves, and where."""

    model: Path
    """Folder of the base model."""
    home: Path
    """Folder for database, artifacts and logs; made when missing."""
    artifacts: str | None = None
    """Folder or URL of the artifacts, when they are not in the home."""
    name: str | None = None
    """Served name; the model folder's in lower case when None."""
    site: str | None = None
    """Module name of the edit site; the paper's choice for the model when None."""
    port: int = DEFAULT_PORT
    """Port of the OpenAI server; 0: a free one."""
    control_port: int = DEFAULT_CONTROL_PORT
    """Port of the control plane; 0: a free one."""
    dtype: ServerDtype = ServerDtype.AUTO
    """Type in which vLLM runs the model."""
    threads: int = 1
    """Torch threads of the editor worker."""
    compiled: bool = False
    """Whether vLLM compiles the model."""
    max_model_len: int | None = None
    """Most tokens of prompt and answer."""
    key_budget_mib: int | None = None
    """Memory of the server for keys, in MiB; the plugin's default when None."""
    value_budget_mib: int | None = None
    """Memory of the server for value vectors, in MiB; the plugin's default when None."""
    first_scores: bool = False
    """Whether requests are decided by scores before refinement where these are certain."""
    server_args: tuple[str, ...] = ()
    """More arguments for vLLM."""
    ready_timeout_s: float = 600.0
    """Seconds that all parts together get to start."""
    grace_s: float = 10.0
    """Seconds that the parts get to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPlan:
    """Settings after all checks: the model, the home and the ports that will be used."""

    settings: StackSettings
    model: ModelFolder
    layout: HomeLayout
    port: int
    control_port: int

    @property
    def artifacts(self) -> str:
        """Folder or URL of the artifacts."""
        return self.settings.artifacts or str(self.layout.artifacts.absolute())

    @property
    def control_address(self) -> str:
        """``HOST:PORT`` of the control plane."""
        return f"{LOOPBACK}:{self.control_port}"

    @property
    def base_url(self) -> str:
        """Base URL of the OpenAI server, without a final slash."""
        return f"http://{LOOPBACK}:{self.port}"


class Stack:
    """An embedded system that runs inside a ``with`` block.

    Parameters
    ----------
    settings
        What to run.
    parts
        Which processes a plan needs.

    Examples
    --------
    ::

        with Stack(StackSettings(model=folder, home=home, port=0, control_port=0)) as stack:
            HorenClient(stack.control_address).create_codebook("demo", preset="cosine", threshold=0.9)
            httpx.post(f"{stack.base_url}/v1/completions", json={"model": f"{stack.model_name}@demo", ...})
    """

    def __init__(
        self, settings: StackSettings, *, parts: Callable[[StackPlan], Sequence[PartSpec]] | None = None
    ) -> None:
        self._settings = settings
        self._parts = parts or stack_parts
        self._plan: StackPlan | None = None
        self._supervisor: Supervisor | None = None
        self._held = ExitStack()
        self._stop = threading.Event()

    @property
    def control_address(self) -> str:
        """``HOST:PORT`` of the control plane."""
        return self._running[0].control_address

    @property
    def base_url(self) -> str:
        """Base URL of the OpenAI server, without ``/v1`` and without a final slash."""
        return self._running[0].base_url

    @property
    def model_name(self) -> str:
        """Name of the clean model."""
        return self._running[0].model.name

    @property
    def layout(self) -> HomeLayout:
        """Paths below the home."""
        return HomeLayout(self._settings.home)

    def start(
        self, *, stop: threading.Event | None = None, on_ready: Callable[[str], None] = lambda _part: None
    ) -> bool:
        """Check everything, start the parts, and return once all are ready.

        Parameters
        ----------
        stop
            Setting it gives up waiting; the call then returns False and nothing runs.
        on_ready
            Called with the name of each part that has become ready.

        Raises
        ------
        FailedPrecondition
            ``home_in_use``, ``home_not_writable``, ``port_taken``, ``model_folder_invalid``,
            ``unsupported_architecture``, ``unknown_site``, ``unauthenticated_bind`` or ``schema_out_of_date``.
        InvalidArgument
            ``invalid_name`` or ``ports_equal``.
        Unavailable
            ``part_died`` or ``not_ready``.
        """
        self._stop = stop or threading.Event()
        try:
            plan = self._prepare()
            supervisor = Supervisor(self._parts(plan), grace_s=self._settings.grace_s)
            self._plan, self._supervisor = plan, supervisor
            supervisor.start()
            ready = supervisor.wait_ready(self._stop, timeout_s=self._settings.ready_timeout_s, on_ready=on_ready)
            if ready:
                plan.layout.write_endpoints(self._endpoints())
        except BaseException:
            self.stop()
            raise
        if not ready:
            self.stop()
        return ready

    def wait(self) -> None:
        """Return when the `stop` given to `start` is set.

        Raises
        ------
        HorenError
            ``part_died``, or what the part that ended by itself said.
        """
        self._running[1].watch(self._stop)

    def unserved_codebooks(self) -> "list[CodebookView]":
        """Return the codebooks in this home that were made for another base model or edit site.

        Raises
        ------
        Unavailable
            ``control_unavailable`` or ``control_timeout``.
        """
        from horen_vllm.control.client import HorenClient  # noqa: PLC0415 - gRPC

        with HorenClient(self.control_address) as client:
            codebooks = [book for tenant in client.list_tenants() for book in client.list_codebooks(tenant.name)]
        if not codebooks:
            return []
        from horen_vllm.fingerprint import model_fingerprint  # noqa: PLC0415 - torch, for homes that need the look

        model = self._running[0].model
        fingerprint = model_fingerprint(model.path, model.site)
        return [codebook for codebook in codebooks if codebook.fingerprint != fingerprint]

    def stop(self) -> None:
        """End all parts and release the home; harmless when repeated."""
        try:
            if self._supervisor is not None:
                self.layout.clear_endpoints()
                self._supervisor.stop()
        finally:
            self._supervisor = None
            self._held.close()

    def kill_server(self) -> None:
        """Kill the vLLM server and its engine with SIGKILL, as a crash would."""
        self._running[1].kill(SERVER)

    def restart_server(self) -> None:
        """Start the vLLM server again on the same port and return once it is ready; raises as `start`."""
        supervisor = self._running[1]
        supervisor.restart(SERVER)
        supervisor.wait_ready(self._stop, timeout_s=self._settings.ready_timeout_s)
        self.layout.write_endpoints(self._endpoints())

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stop."""
        self.stop()

    @property
    def _running(self) -> tuple[StackPlan, Supervisor]:
        assert self._plan is not None, "the stack has been started"
        assert self._supervisor is not None, "the stack has been started"
        return self._plan, self._supervisor

    def _prepare(self) -> StackPlan:
        # SQLAlchemy and Alembic, which `horen --help` does not need.
        from horen_vllm.registry.migrate import upgrade  # noqa: PLC0415

        settings, layout = self._settings, self.layout
        _check_ports(settings)
        check_reach(settings.server_args, os.environ)
        model = open_model_folder(settings.model, name=settings.name, site=settings.site)
        layout.create()
        self._held.enter_context(layout.locked())
        layout.clear_endpoints()
        layout.worker_ready.unlink(missing_ok=True)
        upgrade(layout.database_url)
        return StackPlan(
            settings=settings,
            model=model,
            layout=layout,
            port=claim_port(settings.port, "--port"),
            control_port=claim_port(settings.control_port, "--control-port"),
        )

    def _endpoints(self) -> Endpoints:
        plan, supervisor = self._running
        return Endpoints(
            control=plan.control_address,
            server=plan.base_url,
            model=plan.model.name,
            pids={"up": os.getpid(), **supervisor.pids()},
        )


def _check_ports(settings: StackSettings) -> None:
    if settings.port == settings.control_port != 0:
        message = f"--port and --control-port are both {settings.port}: choose two different ports."
        raise InvalidArgument(message, code="ports_equal")


def stack_parts(plan: StackPlan) -> Sequence[PartSpec]:
    """Return the three processes of an embedded system."""
    return _control(plan), _worker(plan), _server(plan)


def _control(plan: StackPlan) -> PartSpec:
    return PartSpec(
        name=CONTROL,
        title=TITLES[CONTROL],
        command=(
            *_horen(CONTROL, plan),
            *("--name", plan.model.name),
            *("--address", plan.control_address),
            *("--artifacts", plan.artifacts),
            # Loopback needs neither, and its clients here are told of neither.
            *("--auth", "none"),
        ),
        environment=dict.fromkeys(CONTROL_TLS, ""),
        niceness=_NICENESS[CONTROL],
        log=plan.layout.logs / "control.log",
        ready=lambda: control_serving(plan.control_address),
    )


def _worker(plan: StackPlan) -> PartSpec:
    return PartSpec(
        name=WORKER,
        title=TITLES[WORKER],
        command=(
            *_horen(WORKER, plan),
            *("--artifacts", plan.artifacts),
            *("--threads", str(plan.settings.threads)),
            *("--memory-mib", str(_WORKER_MEMORY_MIB)),
            "--calibrate",
            *("--ready-file", str(plan.layout.worker_ready)),
        ),
        log=plan.layout.logs / "worker.log",
        ready=plan.layout.worker_ready.exists,
        niceness=_NICENESS[WORKER],
    )


def _server(plan: StackPlan) -> PartSpec:
    settings = ServerSettings(
        model=plan.model,
        port=plan.port,
        control=plan.control_address,
        artifacts=plan.artifacts,
        dtype=plan.settings.dtype,
        compiled=plan.settings.compiled,
        max_model_len=plan.settings.max_model_len,
        key_budget_mib=plan.settings.key_budget_mib,
        value_budget_mib=plan.settings.value_budget_mib,
        first_scores=plan.settings.first_scores,
        extra=plan.settings.server_args,
    )
    return PartSpec(
        name=SERVER,
        title=TITLES[SERVER],
        command=server_command(settings),
        environment=server_environment(settings, os.environ) | CLEAR_TEXT,
        log=plan.layout.logs / "server.log",
        ready=lambda: server_serving(plan.base_url),
        niceness=_NICENESS[SERVER],
    )


def _horen(command: str, plan: StackPlan) -> tuple[str, ...]:
    return (
        *(sys.executable, "-m", "horen_vllm.cli.app", command),
        *("--database", plan.layout.database_url),
        *("--model", str(plan.model.path)),
        *("--site", plan.model.site),
    )
