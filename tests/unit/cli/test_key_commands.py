"""``horen key``: the first key, files for secrets, rotation, and a control plane that asks for keys."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlAuth, ControlSettings
from horen_vllm.errors import NotFound
from horen_vllm.keys import key_digest
from horen_vllm.registry.models import KeyScope
from horen_vllm.registry.store import SqlRegistry

from .conftest import FINGERPRINT, Run


@pytest.fixture
def url(tmp_path: Path, registry: SqlRegistry) -> str:
    """Database of `registry`, as an operator names it."""
    return f"sqlite:///{tmp_path / 'registry' / 'registry.sqlite'}"


@pytest.fixture
def keyed(registry: SqlRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlServer]:
    """A control plane that asks for keys; the environment names it."""
    settings = ControlSettings(
        model="demo-model", fingerprint=FINGERPRINT, site="x", port=0, auth=ControlAuth.KEYS, key_cache_s=0.1
    )
    with capture_logs(), serve(registry, settings) as running:
        monkeypatch.setenv("HOREN_CONTROL", running.address)
        yield running


@pytest.fixture
def admin(run: Run, url: str, tmp_path: Path) -> Path:
    """File with the first key."""
    file = tmp_path / "admin.key"
    made = run("key", "create", "--scope", "admin", "--database", url, "--secret-file", file, "--json")
    assert made.exit_code == 0, made.output
    return file


def answer(result: Any) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refusal(result: Any) -> tuple[int, str]:
    return result.exit_code, result.stderr.split("]")[0].removeprefix("error [")


def owner(registry: SqlRegistry, file: Path) -> Any:
    return registry.resolve_key(key_digest(file.read_text().strip().encode()))


def test_the_first_key_is_made_in_the_database(registry: SqlRegistry, admin: Path) -> None:
    record = owner(registry, admin)
    assert (record.scope, record.tenant) == (KeyScope.ADMIN, None)
    assert [(it.method, it.actor) for it in registry.list_audit_events()] == [("CreateKey", "local")]


def test_a_secret_file_is_for_its_owner_and_says_nothing_on_the_terminal(
    run: Run, url: str, admin: Path, tmp_path: Path
) -> None:
    assert admin.stat().st_mode & 0o777 == 0o600
    secret = admin.read_text().strip()
    other = tmp_path / "replica.key"
    other.write_text("what stood there")
    result = run("key", "create", "--scope", "replica", "--database", url, "--secret-file", other)
    assert result.exit_code == 0
    assert other.read_text().strip() not in result.output
    assert other.read_text().strip() != secret
    assert other.stat().st_mode & 0o777 == 0o600
    assert sorted(it.name for it in tmp_path.glob("*.key*")) == ["admin.key", "replica.key"]


def test_no_key_is_made_for_a_file_that_cannot_be_written(
    run: Run, url: str, registry: SqlRegistry, tmp_path: Path
) -> None:
    result = run("key", "create", "--scope", "admin", "--database", url, "--secret-file", tmp_path / "no" / "key")
    assert refusal(result) == (6, "secret_file_not_writable")
    assert list(registry.list_keys()) == []


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (("--control", "127.0.0.1:1"), (3, "database_ambiguous")),
        (("acme",), (3, "invalid_key_scope")),
        (("acme", "--scope", "read"), (4, "unknown_tenant")),
    ],
)
def test_a_key_in_the_database_is_checked(run: Run, url: str, arguments: tuple[str, ...], refused: Any) -> None:
    assert refusal(run("key", "create", "--scope", "admin", "--database", url, *arguments)) == refused


def test_an_old_database_is_refused(run: Run, tmp_path: Path) -> None:
    result = run("key", "create", "--scope", "admin", "--database", f"sqlite:///{tmp_path / 'empty.sqlite'}")
    assert refusal(result) == (6, "schema_out_of_date")


def test_every_command_takes_the_key_from_file_option_or_environment(
    keyed: ControlServer, run: Run, admin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(run("tenant", "list")) == (9, "missing_credential")
    assert answer(run("tenant", "create", "acme", "--api-key-file", admin, "--json"))["name"] == "acme"
    secret = answer(run("key", "create", "acme", "--scope", "edit", "--api-key-file", admin, "--json"))["secret"]
    assert answer(run("codebook", "list", "--api-key", secret, "--json")) == []
    monkeypatch.setenv("HOREN_API_KEY", secret)
    create = ("codebook", "create", "facts", "--preset", "cosine", "--threshold", "0.9", "--json")
    assert answer(run(*create))["name"] == "tenants/acme/codebooks/facts"
    assert answer(run("codebook", "show", "facts", "--json"))["revision"] == 1
    assert refusal(run("codebook", "show", "facts", "--tenant", "bolt")) == (10, "wrong_tenant")
    assert refusal(run("tenant", "list")) == (10, "scope_required")
    # An option outdoes what the environment says.
    assert len(answer(run("tenant", "list", "--api-key-file", admin, "--json"))) == 2
    monkeypatch.setenv("HOREN_API_KEY_FILE", str(admin))
    assert refusal(run("tenant", "list")) == (3, "api_key_ambiguous")
    monkeypatch.delenv("HOREN_API_KEY")
    assert len(answer(run("tenant", "list", "--json"))) == 2


def test_a_key_is_rotated_into_the_file_that_its_user_reads(
    keyed: ControlServer, run: Run, registry: SqlRegistry, admin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOREN_API_KEY_FILE", str(admin))
    old = owner(registry, admin)
    old_digest = key_digest(admin.read_text().strip().encode())
    made = answer(run("key", "rotate", old.key_id, "--overlap", "1", "--secret-file", admin, "--json"))
    assert owner(registry, admin).key_id == made["key"]["key_id"] != old.key_id
    assert registry.resolve_key(old_digest).expires_at is not None
    again = answer(run("key", "rotate", made["key"]["key_id"], "--overlap", "0", "--json"))
    with pytest.raises(NotFound):
        owner(registry, admin)
    assert again["secret"].startswith("hk_")


def test_the_servers_process_is_told_the_key_by_its_environment(model_folder: Path, tmp_path: Path) -> None:
    secret, ca = f"hk_k{'0' * 12}_{'x' * 43}", tmp_path / "ca.pem"
    code = (
        "import os, sys, json\n"
        "os.execvpe = lambda file, args, env: print(json.dumps([args, env]))\n"
        "from horen_vllm.cli.app import app\n"
        "sys.argv = ['horen', *sys.argv[1:]]\n"
        "app()\n"
    )
    arguments = ("serve", "--model", model_folder, "--port", 0, "--artifacts", tmp_path, "--control", "127.0.0.1:1")
    environment = {"PATH": "/usr/bin:/bin", "HOREN_API_KEY": secret}
    command = [sys.executable, "-c", code, *map(str, arguments), "--tls-ca", str(ca)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    args, told = json.loads(done.stdout)
    assert secret not in str(args)
    assert (told["HOREN_API_KEY"], told["HOREN_TLS_CA"]) == (secret, str(ca))


def test_secrets_are_in_no_repr_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from horen_vllm.cli.connection import security

    monkeypatch.setenv("HOREN_API_KEY", "hk_marked")
    assert "hk_marked" not in repr(security())
    assert security().environment()["HOREN_API_KEY"] == "hk_marked"


def test_a_stacks_own_server_is_told_of_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    from horen_vllm.cli.connection import CLEAR_TEXT, Security, security

    for name in CLEAR_TEXT:
        monkeypatch.setenv(name, "1")
    assert security().client_tls() is not None
    for name, value in CLEAR_TEXT.items():
        monkeypatch.setenv(name, value)
    assert security() == Security()
