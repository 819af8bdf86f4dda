"""The stack and ``horen up``, with shell scripts in place of the three parts."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from horen_vllm.cli import stack as stack_module
from horen_vllm.cli.connection import CLEAR_TEXT
from horen_vllm.cli.control import CONTROL_TLS
from horen_vllm.cli.layout import HomeLayout
from horen_vllm.cli.stack import Stack
from horen_vllm.errors import FailedPrecondition, HorenError

from . import dummy_stack
from .conftest import Run
from .dummy_stack import dummy_parts, settings
from .processes import alive, all_gone, eventually, pids_of

Up = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def up(model_folder: Path, home: Path) -> Iterator[Up]:
    """Run ``horen up`` with dummy parts in a process of its own, as a shell would."""
    started: list[subprocess.Popen[str]] = []

    def start(**scripts: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.cli.dummy_stack", model_folder, home, "0", json.dumps(scripts)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=Path(__file__).parents[3],
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_until_up(process: "subprocess.Popen[str]", home: Path) -> None:
    endpoints = HomeLayout(home).endpoints_file
    assert eventually(lambda: endpoints.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_and_exits_0(up: Up, home: Path, number: signal.Signals) -> None:
    process = up()
    wait_until_up(process, home)
    pids = pids_of(home)
    assert len(pids) == 6
    # The whole group, as a terminal does it: only the parent may take notice.
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=15)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == "stopped"
    assert all_gone(pids)
    assert not HomeLayout(home).endpoints_file.exists()


def test_it_prints_the_addresses_and_a_line_to_copy(up: Up, home: Path) -> None:
    process = up()
    wait_until_up(process, home)
    endpoints = HomeLayout(home).read_endpoints()
    process.terminate()
    out, _ = process.communicate(timeout=15)
    assert f"{endpoints.server}/v1\n" in out
    assert endpoints.control in out
    assert any(line.startswith(f"curl {endpoints.server}/v1/chat/completions") for line in out.splitlines())
    assert endpoints.model == "toy-model"


def test_a_signal_during_the_start_stops_it(up: Up, home: Path) -> None:
    process = up(server="sleep 1000 & echo $$ $! > {pids}.not-ready; wait")
    waiting = home / "server.pids.not-ready"
    assert eventually(lambda: waiting.exists() and len(waiting.read_text().split()) == 2)
    pids = [int(pid) for pid in waiting.read_text().split()]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert process.returncode == 0
    assert all_gone([*pids, *pids_of(home)])


def test_children_die_with_a_killed_parent(up: Up, home: Path) -> None:
    process = up(server=dummy_stack.STUBBORN)
    wait_until_up(process, home)
    pids = pids_of(home)
    process.kill()
    assert all_gone(pids)
    again = up()
    assert eventually(lambda: pids_of(home) != pids)
    wait_until_up(again, home)


def test_a_part_that_dies_takes_the_others_with_it(up: Up, home: Path) -> None:
    process = up(worker="sleep 1000 & echo $$ $! > {pids}; sleep 1; echo out of luck; exit 5")
    wait_until_up(process, home)
    pids = pids_of(home)
    _, err = process.communicate(timeout=15)
    assert process.returncode == 7
    assert err.startswith("error [part_died]: the dummy worker stopped by itself with exit code 5; its log is ")
    assert "worker| out of luck" in err
    assert all_gone(pids)


def test_a_home_is_used_by_one_stack(up: Up, home: Path, model_folder: Path) -> None:
    process = up()
    wait_until_up(process, home)
    with pytest.raises(FailedPrecondition) as caught:
        Stack(settings(model_folder, home), parts=dummy_parts(home, {})).start()
    assert caught.value.code == "home_in_use"
    assert HomeLayout(home).endpoints_file.exists()
    assert all(alive(pid) for pid in pids_of(home))


def test_a_taken_port_is_named_with_its_option(model_folder: Path, home: Path, run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("--port", "--control-port"):
            other = "--control-port" if option == "--port" else "--port"
            result = run("up", "--model", model_folder, "--home", home, option, port, other, 0)
            assert result.exit_code == 6
            assert f"error [port_taken]: port {port} is taken" in result.stderr
            assert result.stderr.rstrip().endswith(f"{option}.")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_model_folder_is_refused(model_folder: Path, home: Path, run: Run, missing: str) -> None:
    (model_folder / missing).unlink()
    result = run("up", "--model", model_folder, "--home", home)
    assert result.exit_code == 6
    assert "error [model_folder_invalid]" in result.stderr
    assert not home.exists()


def test_a_model_folder_that_does_not_exist_is_refused(home: Path, run: Run) -> None:
    result = run("up", "--model", home / "nothing", "--home", home)
    assert (result.exit_code, result.stderr.split("]")[0]) == (6, "error [model_folder_invalid")
    assert str(home / "nothing") in result.stderr


def test_an_architecture_that_cannot_be_edited_is_refused(model_folder: Path, home: Path, run: Run) -> None:
    config = {"architectures": ["MambaForCausalLM"], "num_hidden_layers": 6}
    (model_folder / "config.json").write_text(json.dumps(config))
    result = run("up", "--model", model_folder, "--home", home)
    assert (result.exit_code, result.stderr.split("]")[0]) == (6, "error [unsupported_architecture")
    assert "MambaForCausalLM" in result.stderr
    assert not home.exists()


@pytest.mark.parametrize("name", ["a@b", "a b"])
def test_a_name_that_cannot_be_asked_for_is_refused(model_folder: Path, home: Path, run: Run, name: str) -> None:
    result = run("up", "--model", model_folder, "--home", home, "--name", name)
    assert (result.exit_code, result.stderr.split("]")[0]) == (3, "error [invalid_name")


def test_one_port_for_both_is_refused_before_anything_is_made(model_folder: Path, home: Path, run: Run) -> None:
    result = run("up", "--model", model_folder, "--home", home, "--port", 8123, "--control-port", 8123)
    assert (result.exit_code, result.stderr.split("]")[0]) == (3, "error [ports_equal")
    assert "8123" in result.stderr
    assert not home.exists()


@pytest.mark.parametrize("blocked", [".", "lock"])
def test_a_home_that_cannot_be_used_is_refused(model_folder: Path, home: Path, run: Run, blocked: str) -> None:
    if blocked == ".":
        home.touch()
    else:
        (home / blocked).mkdir(parents=True)
    result = run("up", "--model", model_folder, "--home", home)
    assert (result.exit_code, result.stderr.split("]")[0]) == (6, "error [home_not_writable")


def test_the_stack_as_a_context(model_folder: Path, home: Path) -> None:
    with Stack(settings(model_folder, home), parts=dummy_parts(home, {})) as stack:
        assert stack.model_name == "toy-model"
        assert stack.base_url.startswith("http://127.0.0.1:")
        assert stack.control_address == HomeLayout(home).read_endpoints().control
        before = pids_of(home)
        stack.kill_server()
        server = [int(pid) for pid in (home / "server.pids").read_text().split()]
        assert all_gone(server)
        (home / "server.pids").unlink()
        stack.restart_server()
        pids = pids_of(home)
        assert len(set(pids) - set(before)) == 2
    assert all_gone([*before, *pids])
    assert HomeLayout(home).database.exists()


def test_a_failed_start_releases_the_home(model_folder: Path, home: Path) -> None:
    with pytest.raises(HorenError):
        Stack(settings(model_folder, home), parts=dummy_parts(home, {"control": "exit 1"})).start()
    with HomeLayout(home).locked():
        pass


def test_the_three_processes_agree_on_model_site_and_addresses(model_folder: Path, home: Path) -> None:
    stack = Stack(settings(model_folder, home), parts=dummy_parts(home, {}))
    plan = stack._prepare()
    stack.stop()
    control, worker, server = stack_module.stack_parts(plan)
    site = "model.layers.3.mlp.down_proj"
    for part in (control, worker):
        assert ("--site", site) in pairwise(part.command)
        assert str(model_folder) in part.command
    assert json.dumps({"horen": {"site": site}}) in server.command
    assert plan.control_address in control.command
    assert server.environment["HOREN_CONTROL"] == plan.control_address
    assert server.environment["HOREN_ARTIFACTS"] in worker.command
    # Whatever this shell says of other control planes, this one speaks clear text and asks for no key.
    assert ("--auth", "none") in pairwise(control.command)
    assert {control.environment[name] for name in CONTROL_TLS} == {""}
    assert {server.environment[name] for name in CLEAR_TEXT} == {""}
