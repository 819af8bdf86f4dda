"""What a request of one tenant may carry into an engine that others use, too."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.errors import InvalidArgument
from horen_vllm.ids import TenantId
from horen_vllm.serving.isolation import isolated_body, isolated_headers

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
SECRET = b"s" * 32

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
some = settings(max_examples=40, deadline=None)
ENGINE_FIELDS = ["kv_transfer_params", "ec_transfer_params", "session_id", "priority"]
ENGINE_XARGS = ["kv_transfer_params", "ec_transfer_params", "session_id", "kv_cache_report_mode"]


def salt(tenant: TenantId = ACME, secret: bytes = SECRET, **body: Any) -> Any:
    return isolated_body(body, tenant, secret)["cache_salt"]


def test_a_salt_is_the_tenants_own_and_stays_the_same() -> None:
    assert salt() == salt(cache_salt=None)
    assert len({salt(), salt(GLOBEX), salt(secret=b"t" * 32), salt(cache_salt="a"), salt(GLOBEX, cache_salt="a")}) == 5
    assert salt(cache_salt="a") == salt(cache_salt="a") != salt(cache_salt="b")


@some
@given(st.text(min_size=1), st.text(min_size=1))
def test_no_salt_of_one_tenant_is_anothers(first: str, second: str) -> None:
    assert salt(ACME, cache_salt=first) != salt(GLOBEX, cache_salt=second)
    # Nor can a salt be written so that it reads as another tenant's: names and salts are apart.
    assert salt(TenantId("a"), cache_salt="b" + first) != salt(TenantId("ab"), cache_salt=first)


def test_vllm_accepts_the_salt() -> None:
    assert salt(cache_salt="@/\\\x00").isalnum()
    assert len(salt()) == 64


@pytest.mark.parametrize("wrong", ["", 0, 5, True, [], {}, ["a"]])
def test_a_salt_that_is_no_text_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidArgument, match="cache_salt") as caught:
        salt(cache_salt=wrong)
    assert caught.value.code == "unsupported_parameter"


def test_without_a_secret_the_salt_is_the_clients() -> None:
    assert isolated_body({"cache_salt": "mine", "prompt": "hi"}, ACME, None) == {"cache_salt": "mine", "prompt": "hi"}


@some
@given(
    st.dictionaries(st.sampled_from(ENGINE_FIELDS), json_values),
    st.dictionaries(st.sampled_from(ENGINE_XARGS), json_values),
)
def test_what_names_things_of_the_whole_engine_is_taken_away(fields: Any, extra: Any) -> None:
    body = {"model": "base", "prompt": "hi", **fields, "vllm_xargs": {**extra, "mine": [1]}}
    before = json.dumps(body)
    kept = isolated_body(body, ACME, SECRET)
    assert kept == {"model": "base", "prompt": "hi", "vllm_xargs": {"mine": [1]}, "cache_salt": kept["cache_salt"]}
    assert json.dumps(body) == before


@some
@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_any_body_is_isolated_or_refused(body: dict[str, Any]) -> None:
    try:
        kept = isolated_body(body, ACME, SECRET)
    except InvalidArgument:
        return
    assert not set(ENGINE_FIELDS) & set(kept)
    assert set(kept) - {"cache_salt"} == set(body) - {*ENGINE_FIELDS, "cache_salt"}


def test_a_request_id_is_the_tenants() -> None:
    assert isolated_body({"request_id": "globex.7"}, ACME, None) == {"request_id": "acme.globex.7"}
    assert isolated_body({"request_id": 7}, ACME, None) == {"request_id": 7}


def test_headers_choose_no_session_rank_or_priority() -> None:
    kept = [(b"host", b"server"), (b"authorization", b"Bearer x"), (b"traceparent", b"00-1-2-00")]
    chosen = [(b"x-session-id", b"s"), (b"x-vllm-priority", b"-1"), (b"x-data-parallel-rank", b"1")]
    assert isolated_headers([*kept, *chosen, *chosen], ACME) == kept


def test_a_request_id_header_is_marked_once() -> None:
    once = isolated_headers([(b"x-request-id", b"7"), (b"x-request-id", b"8")], ACME)
    assert once == [(b"x-request-id", b"acme.7"), (b"x-request-id", b"acme.8")]
    assert isolated_headers(once, ACME) == once
    assert isolated_headers(once, GLOBEX)[0] == (b"x-request-id", b"globex.acme.7")


@pytest.mark.parametrize("uuid", ["x", "", 0])
def test_media_of_others_cannot_be_named(uuid: Any) -> None:
    part = {"type": "image_url", "image_url": None, "uuid": uuid}
    with pytest.raises(InvalidArgument, match="uuid"):
        isolated_body(
            {"messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": [part]}]}, ACME, SECRET
        )


@pytest.mark.parametrize(
    "messages", [None, "hi", 5, [], ["hi"], [{}], [{"content": None}], [{"content": [None, "x", {}]}]]
)
def test_odd_messages_pass_to_vllm(messages: Any) -> None:
    assert isolated_body({"messages": messages}, ACME, None) == {"messages": messages}
