"""Whatever the control plane offers to people, the command line offers, too."""

import ast
import re
from pathlib import Path

import pytest

import horen_vllm.cli
from horen_vllm.control._pb.horen.v1 import admin_pb2, codebooks_pb2, edits_pb2

RENAMED = {"rollback_codebook": "rollback"}
BY_WAY_OF = {"watch_codebook": "wait_serving"}
"""Calls that a command makes through another method of the client."""
CALLS = sorted(
    method.name
    for file in (edits_pb2, codebooks_pb2, admin_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)


@pytest.fixture(scope="module")
def made() -> set[str]:
    """Methods of the client that commands call."""
    found = set()
    for path in Path(horen_vllm.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "client":
                found.add(node.attr)
    return found


@pytest.mark.parametrize("call", CALLS)
def test_a_command_makes_this_call(made: set[str], call: str) -> None:
    method = re.sub(r"(?<!^)(?=[A-Z])", "_", call).lower()
    assert {RENAMED.get(method, method), BY_WAY_OF.get(method, method)} & made
