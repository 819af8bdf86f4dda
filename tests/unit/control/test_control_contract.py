"""What must stay in step: the error table, the client, the generated code, and both directions of convert."""

import importlib.util
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import grpc_tools
import pytest

from horen_vllm import errors
from horen_vllm.control import paging
from horen_vllm.control._pb.horen.v1 import admin_pb2, codebooks_pb2, edits_pb2, replicas_pb2
from horen_vllm.control.client import EditProgress, HorenClient
from horen_vllm.control.status import CODE_KEY, STATUS_OF, error_from_rpc, status_of, trailing_metadata
from horen_vllm.core.presets import ValueMode
from horen_vllm.errors import HorenError, Internal, InvalidArgument, NotFound
from horen_vllm.registry.models import EditState, KeyScope, RevisionKind

ROOT = Path(__file__).parents[3]
FILES = (edits_pb2, codebooks_pb2, replicas_pb2, admin_pb2)


class FakeFailure:
    """As much of a failed call as `error_from_rpc` reads."""

    def __init__(self, status: grpc.StatusCode, message: str, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        self._parts = status, message, metadata

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._parts[2]


def error_classes() -> list[type[HorenError]]:
    return [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, HorenError)]


def test_the_table_covers_every_error_class() -> None:
    assert set(STATUS_OF) == set(error_classes()) - {HorenError}
    assert len(set(STATUS_OF.values())) == len(STATUS_OF)


@pytest.mark.parametrize("cls", STATUS_OF)
def test_errors_come_back_as_they_went(cls: type[HorenError]) -> None:
    sent = cls("A sentence.", code="some_case")
    got = error_from_rpc(FakeFailure(status_of(sent), sent.message, trailing_metadata(sent)), "host:1")
    assert (type(got), got.code, got.message) == (cls, "some_case", "A sentence.")


def test_subclasses_have_the_status_of_their_base() -> None:
    class Special(NotFound):
        pass

    assert status_of(Special("gone")) is grpc.StatusCode.NOT_FOUND
    assert status_of(HorenError("odd")) is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, "control_unavailable"),
        (grpc.StatusCode.CANCELLED, "control_unavailable"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "control_timeout"),
        (grpc.StatusCode.UNIMPLEMENTED, "unknown_method"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "message_too_large"),
        (grpc.StatusCode.UNKNOWN, "internal"),
    ],
)
def test_statuses_without_a_slug_are_named(status: grpc.StatusCode, code: str) -> None:
    assert error_from_rpc(FakeFailure(status, "why", ()), "host:1").code == code


def test_long_messages_fit_into_metadata() -> None:
    metadata = dict(trailing_metadata(Internal("ü" * 100_000, code="some_case")))
    assert metadata[CODE_KEY] == "some_case"
    assert len(metadata["grpc-status-details-bin"]) < 2_000


def test_every_rpc_has_a_client_method() -> None:
    renamed = {"rollback_codebook": "rollback"}
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                snake = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
                assert callable(getattr(HorenClient, renamed.get(snake, snake)))


@pytest.mark.parametrize(
    ("proto", "python"),
    [
        (edits_pb2.Edit.State, EditProgress),
        (codebooks_pb2.Codebook.ValueMode, ValueMode),
        (codebooks_pb2.Revision.Kind, RevisionKind),
        (admin_pb2.Key.Scope, KeyScope),
    ],
)
def test_enums_have_the_same_names(proto: Any, python: Any) -> None:
    assert set(proto.keys()[1:]) == set(python.__members__)


def test_registry_states_are_client_states() -> None:
    assert {state.value for state in EditState} <= {state.value for state in EditProgress}


def test_everything_in_the_protos_is_commented() -> None:
    for path in sorted((ROOT / "proto").rglob("*.proto")):
        lines = path.read_text().splitlines()
        for before, line in pairwise(lines):
            if re.match(r"\s*(rpc|message|service|enum)\s|\s*(?!import|package|syntax).*= \S+;$", line):
                assert before.strip().startswith("//"), f"{path.name}: {line.strip()}"


def test_generated_code_is_what_the_protos_say(tmp_path: Path) -> None:
    committed = ROOT / "horen_vllm" / "control" / "_pb"
    made_by = re.search(r"GRPC_GENERATED_VERSION = '(.+)'", (committed / "horen/v1/edits_pb2_grpc.py").read_text())
    assert made_by is not None
    if grpc.__version__ != made_by[1]:
        pytest.skip(f"made by grpcio-tools {made_by[1]}; this is {grpc.__version__} at {grpc_tools.__name__}")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "proto" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.generate(tmp_path)
    assert texts(tmp_path) == texts(committed)


def texts(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*.py*") if "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


@pytest.mark.parametrize("token", ["x", "ünsinn", "YWZ0ZXI", paging.encode_token("a")[:-1], "AAAA", "a" * 10_000])
def test_foreign_page_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        paging.decode_number(token)
    assert caught.value.code == "invalid_page_token"


def test_page_tokens_keep_their_position() -> None:
    assert paging.decode_number("") == 0
    assert paging.decode_number(paging.encode_token("42")) == 42
    assert paging.decode_token(paging.encode_token("a-b")) == "a-b"
    with pytest.raises(InvalidArgument):
        paging.decode_number(paging.encode_token("a-b"))
