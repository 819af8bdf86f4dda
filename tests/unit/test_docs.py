"""The docs name what the code has: error codes, RPCs, commands, files."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

from horen_vllm.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def source_codes() -> set[str]:
    """Return every literal `code=` of a call in the package, field violations and the protocol's rules included."""
    codes: set[str] = set()
    for proto in (ROOT / "proto").rglob("*.proto"):
        codes.update(re.findall(r'^\s*id: "([a-z_]+)"', proto.read_text(encoding="utf-8"), flags=re.MULTILINE))
    for path in (ROOT / "horen_vllm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            if ast.unparse(node.func) == "FieldViolation" and isinstance(node.args[1], ast.Constant):
                codes.add(str(node.args[1].value))
            codes |= {
                keyword.value.value
                for keyword in node.keywords
                if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
                if isinstance(keyword.value.value, str)
            }
    return codes


def test_every_error_code_is_documented_and_every_documented_one_exists() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| (`[a-z_`, ]+`) \|", page, flags=re.MULTILINE))
    named = {code for row in documented for code in re.findall(r"[a-z_]+", row)}
    assert named - {"internal_error"} == source_codes()


def test_every_rpc_is_documented() -> None:
    page = (ROOT / "docs/reference/grpc.md").read_text(encoding="utf-8")
    for proto in (ROOT / "proto").rglob("*.proto"):
        for rpc in re.findall(r"^\s*rpc (\w+)", proto.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert f"`{rpc}`" in page, rpc


def test_every_command_is_documented() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for path in [f"{name} {part}" for part in getattr(command, "commands", {})] or [name]:
            assert f"`horen {path}" in page, path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (document.parent / target).exists(), target
    assert "@@" not in text
