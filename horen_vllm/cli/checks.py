"""What ``horen doctor`` looks at: each check returns a sentence, or raises with one."""

import importlib
import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.cli.layout import Endpoints, HomeLayout
from horen_vllm.cli.model_folder import open_model_folder
from horen_vllm.cli.probes import control_serving, server_status
from horen_vllm.errors import DataLoss, FailedPrecondition, HorenError, Unavailable

if TYPE_CHECKING:
    from horen_vllm.control.client import ClientTls

_PYTHON: Final = ((3, 11), (3, 14))
"""First version that works, first that does not."""
_ENTRY_POINTS: Final = {"vllm.general_plugins": "horen", "vllm.endpoint_plugins": "horen_serving"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    check: str
    ok: bool
    sentence: str


def run_check(name: str, check: Callable[[], str]) -> Finding:
    """Run one check; whatever it raises makes it fail with a sentence."""
    try:
        return Finding(check=name, ok=True, sentence=check())
    except HorenError as error:
        return Finding(check=name, ok=False, sentence=f"{error.message} [{error.code}]")
    except Exception as error:  # noqa: BLE001 - a broken installation may raise anything on import
        return Finding(check=name, ok=False, sentence=f"{type(error).__name__}: {error}")


def installation_checks() -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the checks of this Python environment."""
    yield "python", _python
    yield "vllm", _vllm
    yield "torch", lambda: _imports("torch")
    yield "transformers", lambda: _imports("transformers")
    yield "entry points", _entry_points
    yield "platform", _platform


def model_checks(folder: Path, site: str | None) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the checks of a model folder."""
    yield "model folder", lambda: f"{open_model_folder(folder).path} looks complete."
    yield "architecture", lambda: _architecture(folder)
    yield "edit site", lambda: _site(folder, site)


def home_checks(layout: HomeLayout) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the checks of a home and of what runs in it."""
    yield "database", lambda: _database(layout)
    yield "artifact folder", lambda: _writable(layout.artifacts)
    yield "artifacts", lambda: _artifacts(layout.artifacts)
    if not layout.endpoints_file.exists():
        yield "running system", lambda: f"nothing runs in {layout.root}."
        return
    yield "control plane", lambda: control_answers(layout.read_endpoints().control)
    yield "server", lambda: _server(layout.read_endpoints())


def control_answers(address: str, tls: "ClientTls | None" = None) -> str:
    """Say that the control plane at `address` is healthy; Unavailable ``control_unavailable``."""
    if not control_serving(address, tls):
        raise Unavailable(f"the control plane at {address} does not answer.", code="control_unavailable")
    return f"{address} is serving."


def _python() -> str:
    if not _PYTHON[0] <= sys.version_info[:2] < _PYTHON[1]:
        message = f"Python {platform.python_version()} is not supported: use 3.11, 3.12 or 3.13."
        raise FailedPrecondition(message, code="unsupported_python")
    return f"Python {platform.python_version()}."


def _vllm() -> str:
    from horen_vllm.plugin.compat import check_version, vllm_version  # noqa: PLC0415 - torch comes with it

    version = vllm_version()
    check_version(version)
    return f"vLLM {version} is in the tested range."


def _imports(package: str) -> str:
    importlib.import_module(package)
    return f"{package} {importlib.metadata.version(package)}."


def _entry_points() -> str:
    for group, name in _ENTRY_POINTS.items():
        if not importlib.metadata.entry_points(group=group, name=name):
            message = f"vLLM cannot find the plugin {name}: install horen-vllm into this environment again."
            raise FailedPrecondition(message, code="entry_point_missing")
    return f"{' and '.join(_ENTRY_POINTS.values())} are installed."


def _platform() -> str:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm.platforms import current_platform  # noqa: PLC0415

    device = current_platform.device_type
    if not device:
        message = "vLLM finds no device to run on: install horen-vllm[cpu] or horen-vllm[gpu] for this machine."
        raise FailedPrecondition(message, code="no_platform")
    return f"vLLM runs on {device}."


def _architecture(folder: Path) -> str:
    return f"{open_model_folder(folder).architecture} can be edited."


def _site(folder: Path, site: str | None) -> str:
    from horen_vllm.fingerprint import model_fingerprint  # noqa: PLC0415

    model = open_model_folder(folder, site=site)
    return f"{model.site} with fingerprint {model_fingerprint(model.path, model.site)[:12]}."


def _database(layout: HomeLayout) -> str:
    from horen_vllm.registry.store import SqlRegistry  # noqa: PLC0415

    if not layout.database.exists():
        return f"there is none yet; `horen up --home {layout.root}` makes it."
    registry = SqlRegistry(layout.database_url)
    try:
        registry.check_schema()
        codebooks = len(registry.list_codebooks())
    finally:
        registry.close()
    return f"the schema is current; {codebooks} codebooks."


def _writable(folder: Path) -> str:
    if not folder.exists():
        return f"there is none yet; `horen up --home {folder.parent}` makes it."
    try:
        with tempfile.TemporaryFile(dir=folder):
            return f"{folder} is writable."
    except OSError as exc:
        message = f"{folder} is not writable: {exc.strerror}."
        raise FailedPrecondition(message, code="artifacts_not_writable") from exc


def _artifacts(folder: Path) -> str:
    store = ArtifactFolder(folder)
    digests = sorted(stored.digest for stored in store.list())
    bad = []
    for digest in digests:
        try:
            store.read(digest)
        except HorenError:
            bad.append(store.where(digest))
    if bad:
        message = f"{len(bad)} of {len(digests)} artifacts do not have the content they were stored with: {bad[0]}."
        raise DataLoss(message, code="artifact_corrupt")
    return f"{len(digests)} artifacts have the content they were stored with."


def _server(endpoints: Endpoints) -> str:
    status = server_status(endpoints.server)
    if status is None:
        raise Unavailable(f"the server at {endpoints.server} does not answer.", code="server_unavailable")
    if status.get("stale", True):
        message = f"the server at {endpoints.server} has lost the control plane, so it answers for no codebook."
        raise Unavailable(message, code="replica_stale")
    if status.get("auth") == "keys":
        return f"{endpoints.server} serves {endpoints.model}; each tenant sees its codebooks with an API key."
    return f"{endpoints.server} serves {endpoints.model} with {len(status['codebooks'])} codebooks."
