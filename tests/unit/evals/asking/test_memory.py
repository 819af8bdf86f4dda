"""What a server's codebooks take, off its metrics page."""

import pytest

from horen_vllm.evals.asking.memory import ServerMemory
from tests.unit.evals.asking.scripted import Reply, Script, status

PAGE = """\
# HELP horen_entries Entries of the applied revision.
# TYPE horen_entries gauge
horen_entries{{codebook="facts",tenant="default"}} {entries}
horen_entries{{codebook="other",tenant="default"}} 7.0
# TYPE horen_pages_used gauge
horen_pages_used{{kind="keys"}} 100.0
horen_pages_used{{kind="values"}} {values}
"""
SIZES = """\
# TYPE horen_page_bytes gauge
horen_page_bytes{kind="keys"} 4.0
horen_page_bytes{kind="values"} 768.0
"""


def page(entries: int, values: int, *, sizes: bool = True) -> Reply:
    text = PAGE.format(entries=entries, values=values) + (SIZES if sizes else "")
    return lambda handler, _body: handler.send(text.encode())


def test_bytes_are_those_of_keys_and_values(script: Script, url: str) -> None:
    script.otherwise = page(3, 5)
    with ServerMemory(f"{url}/v1", api_key="key") as memory:
        assert memory.used("facts", 3) == 100 * 4 + 5 * 768
        assert memory.used("other", 7) == memory.used("facts", 3)
        assert memory.used("new", 0) is not None
    assert {call.path for call in script.calls} == {"/metrics"}
    assert script.calls[0].headers["authorization"] == "Bearer key"


def test_a_page_that_is_behind_is_waited_for(script: Script, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("horen_vllm.evals.asking.memory._POLL_S", 0.0)
    script.replies = [page(2, 4), page(2, 4), page(3, 6)]
    with ServerMemory(url) as memory:
        assert memory.used("facts", 3) == 100 * 4 + 6 * 768
    assert not script.replies


def test_a_server_that_does_not_say_it_is_no_error(script: Script, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("horen_vllm.evals.asking.memory._FRESH_WITHIN_S", 0.0)
    replies = [status(403), page(3, 5, sizes=False), page(2, 5), lambda handler, _body: handler.send(b"horen_entries{")]
    script.replies = list(replies)
    with ServerMemory(url) as memory:
        assert [memory.used("facts", 3) for _ in replies] == [None] * len(replies)
    with ServerMemory("http://127.0.0.1:9") as memory:
        assert memory.used("facts", 3) is None
