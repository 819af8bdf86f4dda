"""Where ``horen control`` finds the artifacts, if anywhere."""

from pathlib import Path

import pytest

from horen_vllm.cli.artifacts import known_artifacts
from horen_vllm.errors import InvalidArgument


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOREN_ARTIFACTS", "HOREN_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_names_them() -> None:
    assert known_artifacts(None, None, None) is None
    assert known_artifacts(None, None, "sqlite:///registry.db") is None


def test_what_is_named_first_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOREN_HOME", str(tmp_path / "home"))
    assert known_artifacts(None, None, None) == str(tmp_path / "home" / "artifacts")
    # The home of the environment is not that of a database that is named.
    assert known_artifacts(None, None, "sqlite:///registry.db") is None
    monkeypatch.setenv("HOREN_ARTIFACTS", str(tmp_path / "shared"))
    assert known_artifacts(None, None, "sqlite:///registry.db") == str(tmp_path / "shared")
    assert known_artifacts(None, tmp_path / "mine", None) == str(tmp_path / "mine" / "artifacts")
    assert known_artifacts(str(tmp_path / "chosen"), tmp_path / "mine", None) == str(tmp_path / "chosen")
    assert known_artifacts("s3://bucket/prefix", None, None) == "s3://bucket/prefix"


def test_a_wrong_address_is_told_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        known_artifacts("s3://", None, None)
    assert caught.value.code == "invalid_artifacts_url"
