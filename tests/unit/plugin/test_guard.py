"""Where keys are asked for and nothing checks them, nobody is answered."""

import pytest

from horen_vllm.errors import FailedPrecondition
from horen_vllm.plugin import admission, guard


@pytest.fixture(autouse=True)
def _unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_guarded", set())


@pytest.mark.parametrize("value", [None, "", "none", "None"])
def test_without_authentication_there_is_nothing_to_guard(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv("HOREN_AUTH", raising=False)
    else:
        monkeypatch.setenv("HOREN_AUTH", value)
    guard.check_guard()


@pytest.mark.parametrize("value", ["keys", "Keys", " keys", "misspelt"])
def test_a_half_that_does_not_stand_is_missed(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOREN_AUTH", value)
    with pytest.raises(FailedPrecondition) as caught:
        guard.check_guard()
    assert caught.value.code == "authentication_off"
    guard.guarded()
    guard.check_guard()


def test_the_engine_takes_no_request_then(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine.input_processor import InputProcessor

    reached = []
    monkeypatch.setattr(InputProcessor, "process_inputs", lambda *_args, **_kwargs: reached.append("engine"))
    admission.install()
    monkeypatch.setenv("HOREN_AUTH", "keys")
    processor = InputProcessor.__new__(InputProcessor)
    with pytest.raises(admission.RefusedRequest) as caught:
        processor.process_inputs("r", "prompt", None)
    assert (caught.value.code, reached) == ("authentication_off", [])
