"""What a request's body may ask for, the tag that goes into it, and errors as the OpenAI API spells them."""

import asyncio
import json
from typing import Any

import pytest

from horen_vllm.errors import HorenError, InvalidArgument
from horen_vllm.plugin.tag import CODEBOOK_KEY, RATIO_KEY, RequestTag
from horen_vllm.serving.problem import HTTP_STATUS, problem, send_problem
from horen_vllm.serving.requests import EDITABLE_PATHS, parse_body, tag_for, with_tag
from tests.unit.serving.doubles import Sender, name_of, served_books

PATH = "/v1/completions"
TAG = RequestTag(str(name_of("facts")), 0.5)


def ask(path: str = PATH, **body: Any) -> RequestTag | None:
    return tag_for(path, body, served_books("facts"))


@pytest.mark.parametrize("content", [b"", b"{", b"nope", b"\xff\xfe\x00", b"[1]", b'"text"', b"null", b"[" * 200_000])
def test_a_body_that_is_no_json_object_is_malformed(content: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_body(content)
    assert caught.value.code == "malformed_json"


def test_a_json_object_is_read() -> None:
    assert parse_body('{"a": ["ü", 1]}'.encode()) == {"a": ["ü", 1]}


@pytest.mark.parametrize("model", ["base", "unknown", None, 5, ["base@facts"], {"base": "facts"}])
def test_a_clean_or_odd_model_gets_no_tag_and_no_refusal(model: Any) -> None:
    assert ask(model=model, use_beam_search=True, vllm_xargs=[1]) is None
    assert ask() is None


@pytest.mark.parametrize("path", sorted(EDITABLE_PATHS))
def test_a_codebook_gets_its_tag_on_the_editable_routes(path: str) -> None:
    assert ask(path, model="base@facts") == TAG


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/tokenize", "/v1/completions/"])
def test_a_codebook_on_another_route_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match=path) as caught:
        ask(path, model="base@facts")
    assert caught.value.code == "unsupported_endpoint"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_beam_search", True),
        ("prompt_embeds", "aGk="),
        ("kv_transfer_params", {"do_remote_prefill": True}),
        ("vllm_xargs", [["a", 1]]),
        ("vllm_xargs", "horen"),
        ("vllm_xargs", 3),
    ],
)
def test_a_parameter_that_cannot_be_edited_under_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=name) as caught:
        ask(model="base@facts", **{name: value})
    assert caught.value.code == "unsupported_parameter"
    assert ask(model="base", **{name: value}) is None


@pytest.mark.parametrize(("name", "value"), [("use_beam_search", False), ("prompt_embeds", None), ("vllm_xargs", None)])
def test_a_parameter_that_is_off_passes(name: str, value: Any) -> None:
    assert ask(model="base@facts", **{name: value}) == TAG


@pytest.mark.parametrize("model", ["base", "base@facts", "unknown", None])
@pytest.mark.parametrize("name", [CODEBOOK_KEY, RATIO_KEY, "horen_anything"])
def test_a_reserved_field_is_refused_whatever_the_model(model: str | None, name: str) -> None:
    with pytest.raises(InvalidArgument, match=name) as caught:
        ask(model=model, vllm_xargs={"fine": 1, name: "x"})
    assert caught.value.code == "reserved_field"


@pytest.mark.parametrize("model", ["base@facts", "org/alias@v1@facts"])
def test_a_tagged_body_names_the_clean_model_and_keeps_the_rest(model: str) -> None:
    body = {"model": model, "prompt": "hi", "vllm_xargs": {"other": [1]}}
    tagged = with_tag(body, TAG)
    assert tagged == {
        "model": model.removesuffix("@facts"),
        "prompt": "hi",
        "vllm_xargs": {"other": [1], CODEBOOK_KEY: str(name_of("facts")), RATIO_KEY: 0.5},
    }
    assert body["vllm_xargs"] == {"other": [1]}


@pytest.mark.parametrize("extra", [None, {}])
def test_a_body_without_extra_arguments_gets_them(extra: Any) -> None:
    assert with_tag({"model": "base@facts", "vllm_xargs": extra}, TAG)["vllm_xargs"] == TAG.to_extra_args()


def every_error() -> list[type[HorenError]]:
    return [
        *HorenError.__subclasses__(),
        *(leaf for kind in HorenError.__subclasses__() for leaf in kind.__subclasses__()),
    ]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_a_status_and_its_code(kind: type[HorenError]) -> None:
    status, body = problem(kind("Why.", code="some_code"))
    assert status == next(HTTP_STATUS[base] for base in kind.__mro__ if base in HTTP_STATUS)
    assert 400 <= status < 600
    assert body == {"error": {"message": "Why.", "type": kind.__name__, "param": None, "code": "some_code"}}


async def _sent(error: HorenError) -> Sender:
    sender = Sender()
    await send_problem(error, sender)
    return sender


def test_a_problem_is_sent_as_json_of_the_right_length() -> None:
    sender = asyncio.run(_sent(InvalidArgument("Nö.", code="x")))
    assert sender.status == 400
    assert sender.headers[b"content-length"] == str(len(sender.content)).encode()
    assert json.loads(sender.content)["error"]["message"] == "Nö."
