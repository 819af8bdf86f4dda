"""``horen worker`` as a process: killed and started again, stopped by a signal, with metrics, calibrating first."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest

from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.core.architectures import default_site
from horen_vllm.core.presets import preset_parameters
from horen_vllm.fingerprint import model_fingerprint
from horen_vllm.ids import DEFAULT_TENANT, CodebookName
from horen_vllm.registry.models import EditSpec, EditState
from horen_vllm.registry.store import SqlRegistry
from tests.unit.editor.conftest import save_tiny

from .processes import eventually

NAME = CodebookName(DEFAULT_TENANT, "facts")
WORDS = ("acme", "bolt", "crux", "dune", "echo", "flux", "gale", "husk", "iris", "jolt", "kelp", "lime")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, registry: SqlRegistry) -> Iterator[Start]:
    """Run ``horen worker`` on a tiny model; its log goes to ``NAME.log``."""
    model = save_tiny("llama", tmp_path / "tiny")
    site = default_site(str(model), "LlamaForCausalLM", 4)
    parameters = replace(preset_parameters("cosine", "tiny", threshold=0.995), max_steps=200, stop_loss=0.2)
    registry.create_codebook(
        NAME, model="tiny", fingerprint=model_fingerprint(model, site), site=site, parameters=parameters
    )
    started: list[subprocess.Popen[str]] = []

    def run(name: str, *options: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "horen_vllm.cli.app", "worker", "--model", str(model), "--id", name]
        command += ["--database", f"sqlite:///{tmp_path / 'registry' / 'registry.sqlite'}"]
        command += ["--artifacts", str(tmp_path / "artifacts"), "--lease", "2", "--ready-file", str(tmp_path / name)]
        log = (tmp_path / f"{name}.log").open("w")
        started.append(subprocess.Popen([*command, *options], stderr=log, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_a_worker_goes_on_where_a_killed_one_stopped(start: Start, registry: SqlRegistry, tmp_path: Path) -> None:
    specs = [EditSpec(prompt=f"{word} {number} is", target=word[:2]) for number, word in enumerate(WORDS)]
    edits = [registry.submit(NAME, spec).edit_id for spec in specs]

    def states() -> list[EditState]:
        return [registry.get_edit(edit).state for edit in edits]

    first = start("first", "--batch", "4", "--memory-mib", "64")
    assert eventually(lambda: EditState.TRAINING in states(), 60.0)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert EditState.COMMITTED in states()

    second = start("second", "--metrics-port", "0")
    assert eventually(lambda: set(states()) == {EditState.PUBLISHED}, 60.0)
    assert [registry.get_edit(edit).published_revision for edit in edits] == list(range(2, len(edits) + 2))
    log = (tmp_path / "second.log").read_text()
    address = re.search(r"http://127\.0\.0\.1:\d+/metrics", log)
    assert address is not None, log
    page = urlopen(address.group()).read().decode()
    assert re.search(r'^horen_editor_edits_total{outcome="new"} \d', page, flags=re.MULTILINE), page
    assert "acme" not in log + page
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=30) == 0
    assert not (tmp_path / "second").exists()


def test_a_worker_calibrates_once_where_it_is_told_to(start: Start, registry: SqlRegistry, tmp_path: Path) -> None:
    for name in ("first", "second"):
        worker = start(name, "--calibrate")
        assert eventually((tmp_path / name).exists, 120.0), (tmp_path / f"{name}.log").read_text()
        made = registry.list_calibrations()
        assert [record.version for record in made] == [1]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=30) == 0
    assert made[0].recommended == "calibrated"
    assert made[0].summary["source"] == "built-in"
    space = made[0].presets["calibrated"].space
    assert space is not None
    assert ArtifactFolder(tmp_path / "artifacts").path(space).exists()
    logs = [
        (tmp_path / f"{name}.log").read_text().count("calibrated on built-in prompts") for name in ("first", "second")
    ]
    assert logs == [1, 0]
