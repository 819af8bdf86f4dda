"""vLLM's command line and environment."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from horen_vllm.cli import server_command as command_module
from horen_vllm.cli.model_folder import open_model_folder
from horen_vllm.cli.server_command import (
    ServerDtype,
    ServerSettings,
    check_reach,
    server_command,
    server_environment,
)
from horen_vllm.plugin.settings import EngineSettings

from .conftest import Run


@pytest.fixture
def settings(model_folder: Path, tmp_path: Path) -> ServerSettings:
    return ServerSettings(
        model=open_model_folder(model_folder, name="toy"),
        port=8123,
        control="127.0.0.1:8950",
        artifacts=str(tmp_path),
        dtype=ServerDtype.FLOAT32,
        max_model_len=512,
        extra=("--max-num-seqs", "4"),
    )


def test_flags(settings: ServerSettings) -> None:
    command = server_command(settings)
    pairs = dict(pairwise(command))
    assert pairs["-m"] == "vllm.entrypoints.openai.api_server"
    assert pairs["--served-model-name"] == "toy"
    assert (pairs["--host"], pairs["--port"]) == ("127.0.0.1", "8123")
    assert (pairs["--dtype"], pairs["--max-model-len"]) == ("float32", "512")
    assert "--enforce-eager" in command
    assert command[-2:] == ("--max-num-seqs", "4")


def test_budgets_reach_the_plugin(settings: ServerSettings) -> None:
    site = settings.model.site
    assert settings.additional_config() == {"horen": {"site": site}}
    larger = replace(settings, key_budget_mib=1024, value_budget_mib=512)
    config = json.loads(dict(pairwise(server_command(larger)))["--additional-config"])
    assert config == {"horen": {"site": site, "key_budget_mib": 1024, "value_budget_mib": 512}}
    assert EngineSettings.from_additional_config(config) is not None


def test_first_scores_reach_the_plugin(settings: ServerSettings) -> None:
    config = json.loads(dict(pairwise(server_command(replace(settings, first_scores=True))))["--additional-config"])
    read = EngineSettings.from_additional_config(config)
    assert read is not None
    assert read.first_scores


def test_a_cpu_gets_its_block_size_and_cache(settings: ServerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_module, "on_cpu", lambda: True)
    assert "--block-size" in server_command(settings)
    assert server_environment(settings, {})["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in server_environment(settings, {"VLLM_CPU_KVCACHE_SPACE": "4"})


def test_a_gpu_does_not(settings: ServerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_module, "on_cpu", lambda: False)
    assert "--block-size" not in server_command(settings)
    assert "VLLM_USE_V2_MODEL_RUNNER" not in server_environment(settings, {})


@pytest.mark.parametrize(
    ("chosen", "cpu", "passed"),
    [
        (ServerDtype.AUTO, True, "float32"),
        (ServerDtype.AUTO, False, "auto"),
        (ServerDtype.BFLOAT16, True, "bfloat16"),
        (ServerDtype.FLOAT32, False, "float32"),
    ],
)
def test_only_auto_depends_on_the_machine(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch, chosen: ServerDtype, cpu: bool, passed: str
) -> None:
    monkeypatch.setattr(command_module, "on_cpu", lambda: cpu)
    assert dict(pairwise(server_command(replace(settings, dtype=chosen))))["--dtype"] == passed


def test_environment(settings: ServerSettings, tmp_path: Path) -> None:
    needed = server_environment(settings, {})
    assert needed["VLLM_PLUGINS"] == "horen,horen_serving"
    assert needed["HOREN_CONTROL"] == "127.0.0.1:8950"
    assert needed["HOREN_ARTIFACTS"] == str(tmp_path)


def test_serve_becomes_vllm(model_folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, tuple[str, ...], dict[str, str]]] = []
    monkeypatch.setattr("os.execvpe", lambda *call: called.append(call))
    monkeypatch.setattr(command_module, "on_cpu", lambda: True)
    options = ("--port", 0, "--control", "127.0.0.1:1", "--artifacts", tmp_path, "--replica-id", "r7", "--compile")
    result = run("serve", "--model", model_folder, *options, "--", "--seed", "3")
    assert result.exit_code == 0, result.output
    (_, command, environment) = called[0]
    assert command[-2:] == ("--seed", "3")
    assert "--enforce-eager" not in command
    assert dict(pairwise(command))["--dtype"] == "float32"
    assert (environment["HOREN_REPLICA_ID"], environment["HOREN_CONTROL"]) == ("r7", "127.0.0.1:1")


@pytest.mark.parametrize(
    "extra", [("--host", "0.0.0.0"), ("--seed", "3", "--host=::"), ("--host", "127.0.0.1", "--host", "h")]
)
def test_a_server_beyond_loopback_needs_keys_before_it_loads_anything(
    model_folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, extra: tuple[str, ...]
) -> None:
    monkeypatch.delenv("HOREN_AUTH", raising=False)
    result = run("serve", "--model", model_folder, "--port", 0, "--", *extra)
    assert (result.exit_code, result.stderr.split("]")[0]) == (6, "error [unauthenticated_bind")
    check_reach(extra, {"HOREN_AUTH": "keys"})
    check_reach(("--host", "localhost", "--host=127.0.0.1"), {})


def test_all_api_servers_of_an_engine_salt_alike(settings: ServerSettings) -> None:
    made = [server_environment(settings, {})["HOREN_CACHE_SECRET"] for _ in range(2)]
    assert made[0] != made[1]
    assert min(map(len, made)) >= 32
    assert "HOREN_CACHE_SECRET" not in server_environment(settings, {"HOREN_CACHE_SECRET": "x" * 32})
