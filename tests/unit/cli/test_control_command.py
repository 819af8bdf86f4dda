"""``horen control``: what it refuses before it reads a model, and how it logs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from horen_vllm.cli.control import CONTROL_TLS
from horen_vllm.cli.metrics_page import metrics_page
from horen_vllm.control.metrics import ControlMetrics

from .conftest import Run


def refusal(result: Any) -> tuple[int, str]:
    return result.exit_code, result.stderr.strip().splitlines()[-1].split("]")[0].removeprefix("error [")


@pytest.fixture
def control(run: Run, model_folder: Path, tmp_path: Path) -> Any:
    """Run ``horen control`` with options that must be refused."""
    return lambda *options: run("control", "--model", model_folder, "--home", tmp_path, *options)


@pytest.mark.parametrize("options", [(), ("--auth", "keys"), ("--auth", "none")])
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1"])
def test_beyond_loopback_it_wants_keys_and_tls(control: Any, options: tuple[str, ...], host: str) -> None:
    result = control("--address", f"{host}:0", *options)
    assert refusal(result) == (6, "insecure_bind")
    assert "--auth keys, --tls-cert and --tls-key" in result.stderr


@pytest.mark.parametrize(
    "options", [("--tls-cert", "cert.pem"), ("--tls-key", "key.pem"), ("--tls-client-ca", "ca.pem")]
)
def test_half_of_the_files_for_tls_are_refused(control: Any, options: tuple[str, ...]) -> None:
    assert refusal(control(*options)) == (6, "invalid_tls")


def test_the_environment_stands_in_for_options_unless_it_is_empty(
    control: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOREN_CONTROL_TLS_CERT", "cert.pem")
    assert refusal(control()) == (6, "invalid_tls")
    for name in (*CONTROL_TLS, "HOREN_CONTROL_AUTH"):
        monkeypatch.setenv(name, "")
    assert refusal(control("--address", "0.0.0.0:0")) == (6, "insecure_bind")
    monkeypatch.setenv("HOREN_CONTROL_AUTH", "passwords")
    assert control().exit_code == 2


def test_the_page_for_prometheus_is_there_for_as_long_as_the_process_works() -> None:
    metrics = ControlMetrics()
    metrics.calls.labels("EditService/GetEdit", "OK").inc()
    with capture_logs() as logs, metrics_page(metrics.registry, 0):
        url = next(line["url"] for line in logs if line["event"] == "metrics are served")
        page = httpx.get(url, trust_env=False).text
    assert url.startswith("http://127.0.0.1:")
    assert 'horen_control_calls_total{code="OK",method="EditService/GetEdit"} 1.0' in page
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)
    with capture_logs() as logs, metrics_page(metrics.registry, None):
        pass
    assert logs == []


def log_of(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    code = (
        "import structlog\n"
        "from horen_vllm.cli.logs import configure_logs\n"
        "configure_logs()\n"
        "log = structlog.get_logger()\n"
        "log.debug('quiet'), log.info('said', number=3)\n"
    )
    variables = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=False)


def test_the_log_is_text_or_json_on_stderr() -> None:
    text = log_of({})
    assert (text.returncode, text.stdout) == (0, "")
    assert "said" in text.stderr
    assert "quiet" not in text.stderr
    lines = log_of({"HOREN_LOG_FORMAT": "json", "HOREN_LOG_LEVEL": "debug"}).stderr.splitlines()
    quiet, said = map(json.loads, lines)
    assert (quiet["event"], quiet["level"]) == ("quiet", "debug")
    assert (said["event"], said["number"], said["level"]) == ("said", 3, "info")
    assert said["timestamp"].endswith("Z")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_on_a_full_disk_stops_nobody() -> None:
    code = (
        "import structlog, sys\n"
        "from horen_vllm.cli.logs import configure_logs\n"
        "configure_logs()\n"
        "structlog.get_logger().info('said')\n"
        "print('went on', flush=True)\n"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, check=False, text=True)
    assert done.stdout == "went on\n"


@pytest.mark.parametrize("name", ["HOREN_LOG_FORMAT", "HOREN_LOG_LEVEL"])
def test_settings_of_the_log_are_checked(control: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "loud")
    assert refusal(control()) == (3, "invalid_log_settings")
