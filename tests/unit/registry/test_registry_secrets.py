"""What a statement carried is not in the error that it ended with."""

import secrets
import traceback

import pytest
from sqlalchemy import create_engine, text

from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import HorenError
from horen_vllm.ids import CodebookName
from horen_vllm.registry.models import EditSpec
from horen_vllm.registry.store import SqlRegistry

BOOK = CodebookName.parse("tenants/default/codebooks/facts")


def test_a_failed_statement_keeps_a_prompt_to_itself(registry: SqlRegistry, url: str) -> None:
    parameters = MethodParameters(preset="horen-paper", threshold=0.85)
    registry.create_codebook(BOOK, model="m", fingerprint="fp", site="s", parameters=parameters)
    with create_engine(url).begin() as connection:
        connection.execute(text("ALTER TABLE edits RENAME COLUMN target TO answer"))
    # Made here, since a traceback shows the lines of this file.
    mark = secrets.token_hex(8)
    with pytest.raises(HorenError) as caught:
        registry.submit(BOOK, EditSpec(prompt=mark, target=mark))
    said = "".join(traceback.format_exception(caught.value))
    assert "INSERT INTO edits" in said
    assert mark not in said
