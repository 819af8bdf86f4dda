"""``horen tenant``, ``horen key`` and ``--tenant`` against a real control plane."""

from collections.abc import Callable
from typing import Any

import pytest

from horen_vllm.control.client import HorenClient
from horen_vllm.control.server import ControlServer
from horen_vllm.keys import key_digest
from horen_vllm.registry.models import EditRecord

from .conftest import Run

BOOK = ("--preset", "cosine", "--threshold", "0.85")


@pytest.fixture(autouse=True)
def no_tenant_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOREN_TENANT", raising=False)


@pytest.fixture
def acme(horen: Callable[..., Any]) -> str:
    return str(horen("tenant", "create", "acme")["name"])


def test_tenants_are_made_and_listed(horen: Callable[..., Any], run: Run, acme: str) -> None:
    assert [tenant["name"] for tenant in horen("tenant", "list")] == [acme, "default"]
    assert "horen key create globex" in run("tenant", "create", "globex").stdout
    again, wrong = run("tenant", "create", acme), run("tenant", "create", "Acme Inc")
    assert (again.exit_code, again.stderr.split("]")[0]) == (5, "error [tenant_exists")
    assert (wrong.exit_code, wrong.stderr.split("]")[0]) == (3, "error [invalid_name")


def test_a_keys_secret_is_shown_once(horen: Callable[..., Any], run: Run, server: ControlServer, acme: str) -> None:
    made = horen("key", "create", acme, "--scope", "edit", "--days", "30")
    assert (made["key"]["tenant"], made["key"]["scope"]) == (acme, "edit")
    with HorenClient(server.address) as client:
        assert client.resolve_key(key_digest(made["secret"].encode())).key_id == made["key"]["key_id"]
    shown = run("key", "create", acme)
    assert shown.stdout.split()[:2][0] == "secret"
    assert "not shown again" in shown.stderr
    listed = run("key", "list").stdout
    assert made["key"]["key_id"] in listed
    assert made["secret"].removeprefix(f"hk_{made['key']['key_id']}_") not in listed + str(horen("key", "list"))


def test_keys_are_listed_oldest_first_with_their_state(horen: Callable[..., Any], run: Run, acme: str) -> None:
    first, second = horen("key", "create", acme)["key"], horen("key", "create", acme)["key"]
    admin = horen("key", "create", "--scope", "admin")["key"]
    revoked = horen("key", "revoke", first["key_id"])
    assert revoked["revoked_at"] is not None
    assert [key["key_id"] for key in horen("key", "list")] == [first["key_id"], second["key_id"], admin["key_id"]]
    assert [key["key_id"] for key in horen("key", "list", "--tenant", acme)] == [first["key_id"], second["key_id"]]
    rows = [line.split()[:4] for line in run("key", "list").stdout.splitlines()[1:]]
    assert rows == [
        [first["key_id"], acme, "read", "revoked"],
        [second["key_id"], acme, "read", "valid"],
        [admin["key_id"], "-", "admin", "valid"],
    ]
    assert "is revoked" in run("key", "revoke", second["key_id"]).stdout


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("key", "create", "nobody"), 4, "unknown_tenant"),
        (("key", "create"), 3, "invalid_key_scope"),
        (("key", "create", "default", "--scope", "admin"), 3, "invalid_key_scope"),
        (("key", "create", "default", "--days", "4000"), 3, "invalid_lifetime"),
        (("key", "list", "--tenant", "nobody"), 4, "unknown_tenant"),
        (("key", "revoke", "k0"), 4, "unknown_key"),
        (("codebook", "create", "facts", *BOOK, "--tenant", "nobody"), 4, "unknown_tenant"),
        (("codebook", "list", "--tenant", "nobody"), 4, "unknown_tenant"),
    ],
)
def test_refusals_become_exit_codes(
    server: ControlServer, run: Run, arguments: tuple[str, ...], status: int, code: str
) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stderr.split("]")[0]) == (status, f"error [{code}")


def test_a_tenants_codebook_is_worked_with_by_option_environment_or_full_name(
    horen: Callable[..., Any], publish: Callable[[], EditRecord], acme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = horen("codebook", "create", "facts", *BOOK, "--tenant", acme)
    assert made["name"] == "tenants/acme/codebooks/facts"
    edit = horen(
        "edit", "submit", "facts", "--prompt", "Who?", "--target", "Ada", "--wait", "committed", "--tenant", acme
    )
    publish()
    assert horen("codebook", "list") == []
    assert [view["revision"] for view in horen("codebook", "list", "--tenant", acme)] == [2]
    assert horen("edit", "show", edit["edit_id"], "--tenant", acme)["active"]
    assert len(horen("edit", "list", "tenants/acme/codebooks/facts")) == 1
    monkeypatch.setenv("HOREN_TENANT", acme)
    assert horen("codebook", "rollback", "facts", "1")["number"] == 3
    assert len(horen("codebook", "revisions", "facts")) == 3
    assert horen("codebook", "show", "facts")["revision"] == 3


def test_an_edit_of_another_tenant_is_not_found(horen: Callable[..., Any], run: Run, acme: str) -> None:
    horen("codebook", "create", "facts", *BOOK, "--tenant", acme)
    arguments = ("--prompt", "Who?", "--target", "Ada", "--wait", "committed", "--tenant", acme)
    edit = horen("edit", "submit", "facts", *arguments)
    result = run("edit", "show", edit["edit_id"])
    assert (result.exit_code, result.stderr.split("]")[0]) == (4, "error [unknown_edit")


def test_a_quota_is_shown_and_changed(horen: Callable[..., Any], run: Run) -> None:
    assert horen("tenant", "quota", "default")["quota"]["max_pending"] is None
    changed = horen("tenant", "quota", "default", "--max-pending", "7", "--edits-per-minute", "60")
    assert (changed["quota"]["max_pending"], changed["quota"]["edits_per_minute"]) == (7, 60)
    lifted = horen("tenant", "quota", "default", "--max-pending", "none")
    assert (lifted["quota"]["max_pending"], lifted["quota"]["edits_per_minute"]) == (None, 60)
    assert "60" in run("tenant", "quota", "default").stdout
    wrong = run("tenant", "quota", "default", "--max-pending", "many")
    assert (wrong.exit_code, "error [invalid_quota]" in wrong.stderr) == (3, True)
    assert run("tenant", "quota", "nobody").exit_code == 4
