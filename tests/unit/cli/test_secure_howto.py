"""The commands of docs/howto/secure-the-control-plane.md work as they are written, on loopback and on SQLite."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.cli.ports import LOOPBACK, claim_port
from horen_vllm.cli.probes import control_serving
from horen_vllm.control.client import ClientTls
from horen_vllm.demo.paths import demo_model_dir

PAGE = Path(__file__).parents[3] / "docs/howto/secure-the-control-plane.md"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the page's certificates are openssl's")


def blocks() -> list[tuple[str, str]]:
    """Return language and text of each block of the page, in order."""
    return re.findall(r"^```(bash|python)\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


class Shell:
    """Runs blocks one after the other in one folder; what one exports, the next one has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = claim_port(0, "")
        self._control: subprocess.Popen[bytes] | None = None
        self._bin = Path(sys.executable).parent

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def localised(self, text: str) -> str:
        """Return a block with this test's model, database and address in place of the page's."""
        places = {
            "/models/my-llama": str(demo_model_dir()),
            "postgresql+psycopg://horen@db.internal/horen": f"sqlite:///{self.folder}/registry.sqlite",
            "0.0.0.0:8950": self.address,
            "control.internal:8950": f"localhost:{self.port}",
        }
        for page, here in places.items():
            text = text.replace(page, here)
        return text

    def run(self, text: str) -> str:
        script = f"set -eu\n{self._environment()}{self.localised(text)}\nexport -p > environment\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._variables(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    def python(self, text: str) -> str:
        command = [sys.executable, "-c", self.localised(text)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, text: str, tls: ClientTls) -> None:
        """Start the control plane of a block in the place of the last one, and wait until it serves."""
        self.stop()
        script = f"set -eu\n{self._environment()}exec {self.localised(text)}"
        with (self.folder / "control.log").open("ab") as log:
            self._control = subprocess.Popen(
                ["bash", "-c", script], cwd=self.folder, env=self._variables(), stdout=log, stderr=log
            )
        deadline = time.monotonic() + 120
        while not control_serving(self.address, tls):
            said = (self.folder / "control.log").read_text()
            assert self._control.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def stop(self) -> None:
        if self._control is not None:
            self._control.terminate()
            self._control.wait(30)

    def _variables(self) -> dict[str, str]:
        return {"PATH": f"{self._bin}:/usr/local/bin:/usr/bin:/bin", "HOME": str(self.folder)}

    def _environment(self) -> str:
        return ". ./environment\n" if (self.folder / "environment").exists() else ""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    running = Shell(tmp_path)
    yield running
    running.stop()


def test_the_page_works_from_top_to_bottom(shell: Shell) -> None:
    ca = ClientTls(ca=shell.folder / "ca.pem")
    with_certificate = ClientTls(ca=ca.ca, cert=shell.folder / "operator.pem", key=shell.folder / "operator-tls.key")
    said: list[Any] = []
    for language, text in blocks():
        if "horen serve" in text:
            continue
        if text.startswith("horen control"):
            shell.start(text, with_certificate if "--tls-client-ca" in text else ca)
        else:
            said.append(shell.python(text) if language == "python" else shell.run(text))
    output = "\n".join(said)
    assert "tenant='acme', codebook='facts'" in output, "Python's client sees the codebook of its own tenant"
    assert "acme" in said[-2], "the operator's certificate and key open the second control plane"
    assert "hk_" not in output + (shell.folder / "control.log").read_text()
    assert "acme" in shell.run("horen tenant list"), "the renewed certificate is as good"
    assert "not renewed" not in (shell.folder / "control.log").read_text()
