"""A server that others could reach without a credential does not start."""

from argparse import Namespace
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from horen_vllm.errors import FailedPrecondition
from horen_vllm.serving.auth import add_authentication
from horen_vllm.serving.binding import check_binding
from horen_vllm.serving.settings import Auth, ServingSettings, ShareCache


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOREN_AUTH", "HOREN_CONTROL", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def refusal(settings: ServingSettings, **args: Any) -> str:
    with pytest.raises(FailedPrecondition) as caught:
        check_binding(settings, Namespace(**{"host": None, "uds": None, "api_key": None, **args}))
    return caught.value.code


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_authentication(host: str) -> None:
    check_binding(ServingSettings(), Namespace(host=host, uds=None))
    check_binding(ServingSettings(), Namespace(host=None, uds="/run/vllm.sock"))


@pytest.mark.parametrize("host", [None, "", "0.0.0.0", "::", "10.1.2.3", "server.example", "127.0.0.1.example", "1"])
def test_everything_else_does(host: str | None) -> None:
    assert refusal(ServingSettings(), host=host) == "unauthenticated_bind"
    # vLLM's own key guards some routes only, and knows no tenants.
    assert refusal(ServingSettings(), host=host, api_key=["k"]) == "unauthenticated_bind"
    check_binding(ServingSettings(auth=Auth.KEYS, control="127.0.0.1:1"), Namespace(host=host, uds=None, api_key=None))


def test_two_kinds_of_keys_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ServingSettings(auth=Auth.KEYS, control="127.0.0.1:1")
    assert refusal(settings, api_key=["k"]) == "api_key_conflict"
    monkeypatch.setenv("VLLM_API_KEY", "k")
    assert refusal(settings) == "api_key_conflict"


def test_keys_need_somebody_who_knows_them() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        add_authentication(FastAPI(), ServingSettings(auth=Auth.KEYS))
    assert caught.value.code == "keys_need_control"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ServingSettings().auth, ServingSettings().share_cache) == (Auth.NONE, ShareCache.TENANT)
    monkeypatch.setenv("HOREN_AUTH", "keys")
    monkeypatch.setenv("HOREN_SHARE_CACHE", "all")
    monkeypatch.setenv("HOREN_KEY_CACHE_S", "2")
    settings = ServingSettings()
    assert (settings.auth, settings.share_cache, settings.key_cache_s) == (Auth.KEYS, ShareCache.ALL, 2.0)
    monkeypatch.setenv("HOREN_AUTH", "password")
    with pytest.raises(ValidationError):
        ServingSettings()


def test_cache_secrets_are_random_and_not_shown() -> None:
    first, second = ServingSettings(), ServingSettings()
    assert first.cache_secret != second.cache_secret
    assert first.cache_secret.get_secret_value() not in repr(first)
