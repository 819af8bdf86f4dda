"""CodebookService over real gRPC and a real registry."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from horen_vllm.control.client import CodebookView, EditProgress, EditView, HorenClient
from horen_vllm.core.presets import BUILT_IN, ValueMode, preset_parameters
from horen_vllm.errors import AlreadyExists, HorenError, InvalidArgument, NotFound, Unavailable
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.models import EditRecord, EditSpec, RevisionKind


def test_create_applies_preset_and_overrides(client: HorenClient) -> None:
    made = client.create_codebook(
        "demo", preset="horen-paper", threshold=0.7, value_mode=ValueMode.SEQUENCE, window_ratio=0.5
    )
    assert str(made.name) == "tenants/default/codebooks/demo"
    assert (made.model, made.fingerprint, made.site) == ("demo-model", "f" * 64, "model.layers.1.mlp.down_proj")
    assert made.parameters.preset == "horen-paper"
    assert (made.parameters.threshold, made.parameters.window_ratio) == (0.7, 0.5)
    assert made.parameters.value_mode is ValueMode.SEQUENCE
    assert (made.revision, made.entry_count, made.replicas_total, made.serving) == (1, 0, 0, False)
    assert client.get_codebook("demo") == made
    assert client.get_codebook(made.name) == made
    assert client.get_codebook(str(made.name)) == made


@pytest.mark.parametrize("preset", [name for name in BUILT_IN if name != "grace"])
@pytest.mark.parametrize(
    "options",
    [
        {"rank": 4, "max_value_rows": 1, "train_end": False, "chat": False, "prefixes": 0},
        {"rank": 0, "max_value_rows": 2_048, "train_end": True, "chat": True, "prefixes": 16},
        {"rank": 64, "value_mode": ValueMode.LAST},
    ],
)
def test_create_replaces_what_is_given_and_keeps_the_rest(
    client: HorenClient, preset: str, options: dict[str, Any]
) -> None:
    plain = client.create_codebook("plain", preset=preset, threshold=0.8)
    assert plain.parameters == preset_parameters(preset, "demo-model", 0.8)
    made = client.create_codebook("demo", preset=preset, threshold=0.8, **options)
    assert made.parameters == replace(plain.parameters, **options)
    assert client.get_codebook("demo") == made


def test_grace_has_one_key_an_edit_and_no_lora(client: HorenClient) -> None:
    for options in ({"chat": True}, {"prefixes": 2}, {"rank": 4}, {"anchors": True}):
        with pytest.raises(InvalidArgument) as caught:
            client.create_codebook("demo", preset="grace", **options)
        assert caught.value.code == "invalid_parameter"
    made = client.create_codebook("demo", preset="grace", chat=False)
    assert made.parameters == preset_parameters("grace", "demo-model")


def test_anchors_need_a_span_of_what_the_user_wrote(client: HorenClient) -> None:
    with pytest.raises(InvalidArgument, match="reads the whole prompt"):
        client.create_codebook("demo", preset="horen-paper", threshold=0.8, anchors=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": -1}, "rank is -1; it must be 0 to 64."),
        ({"rank": 65}, "rank is 65; it must be 0 to 64."),
        ({"max_value_rows": 0}, "max_value_rows is 0; it must be 1 to 2048."),
        ({"max_value_rows": 2_049}, "max_value_rows is 2049; it must be 1 to 2048."),
        ({"prefixes": -1}, "prefixes is -1; it must be 0 to 16."),
        ({"prefixes": 17}, "prefixes is 17; it must be 0 to 16."),
    ],
)
def test_create_names_the_limits_of_a_parameter(client: HorenClient, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.create_codebook("demo", preset="cosine", threshold=0.8, **options)
    assert (caught.value.code, caught.value.message) == ("invalid_parameter", said)
    assert list(client.list_codebooks()) == []


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("Demo", {}, "invalid_name"),
        ("x" * 500, {}, "invalid_name"),
        ("tenants/default/models/demo", {}, "invalid_name"),
        ("demo", {"preset": "best"}, "unknown_preset"),
        ("demo", {"preset": "p" * 10_000}, "unknown_preset"),
        ("demo", {"threshold": None}, "threshold_required"),
        ("demo", {"threshold": 1.5}, "invalid_threshold"),
        ("demo", {"threshold": float("nan")}, "invalid_threshold"),
        ("demo", {"window_ratio": 0.0}, "invalid_window_ratio"),
    ],
)
def test_create_refuses(client: HorenClient, name: str, options: dict[str, object], code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.create_codebook(name, **{"preset": "cosine", "threshold": 0.8, **options})  # type: ignore[arg-type]
    assert caught.value.code == code


def test_names_are_taken_once(client: HorenClient, demo: CodebookName) -> None:
    with pytest.raises(AlreadyExists) as caught:
        client.create_codebook(demo, preset="cosine", threshold=0.8)
    assert caught.value.code == "codebook_exists"


def test_unknown_and_foreign_codebooks_look_the_same(client: HorenClient, spec: EditSpec) -> None:
    calls: list[Callable[[str], object]] = [
        client.get_codebook,
        lambda name: list(client.list_revisions(name)),
        lambda name: list(client.list_edits(name)),
        lambda name: client.rollback(name, 1),
        lambda name: next(client.watch_codebook(name)),
        lambda name: client.submit_edit(name, spec),
    ]
    for name in ("tenants/default/codebooks/ghost", "tenants/other/codebooks/demo"):
        for call in calls:
            with pytest.raises(NotFound) as caught:
                call(name)
            assert (caught.value.code, caught.value.message) == (
                "unknown_codebook", f"There is no codebook {name}.",
            )  # fmt: skip
    with pytest.raises(NotFound, match="There is no tenant other") as caught:
        client.create_codebook(CodebookName(TenantId("other"), "demo"), preset="cosine", threshold=0.8)
    assert caught.value.code == "unknown_tenant"


def test_list_pages_in_name_order(client: HorenClient) -> None:
    for name in ("b", "a-b", "ab", "a", "c"):
        client.create_codebook(name, preset="cosine", threshold=0.8)
    names = [view.name.codebook for view in client.list_codebooks(page_size=2)]
    assert names == ["a", "a-b", "ab", "b", "c"]
    assert [view.name.codebook for view in client.list_codebooks(page_size=5)] == names


def test_page_sizes_and_tokens_are_checked(client: HorenClient, demo: CodebookName) -> None:
    for listing in (client.list_codebooks, lambda **kw: client.list_edits(demo, **kw)):
        with pytest.raises(InvalidArgument) as caught:
            list(listing(page_size=-1))
        assert caught.value.code == "invalid_page_size"
    assert len(list(client.list_codebooks(page_size=1_000_000))) == 1


def test_rollback_makes_a_revision_and_deactivates(
    client: HorenClient,
    demo: CodebookName,
    submit: Callable[[str], EditView],
    publish: Callable[[], EditRecord],
    beat: Callable[..., None],
) -> None:
    edit = submit("Who leads Acme?")
    publish()
    beat(demo=2)
    assert client.get_edit(edit).state is EditProgress.SERVING

    rolled = client.rollback(demo, 1)
    assert (rolled.number, rolled.kind, rolled.restored, rolled.entry_count) == (3, RevisionKind.ROLLBACK, 1, 0)
    assert (rolled.serving, rolled.replicas_total, rolled.replicas_serving) == (False, 1, 0)
    assert client.get_edit(edit).state is EditProgress.INACTIVE

    back = client.rollback(demo, 2)
    # The replica still serves revision 2 or 3; after 3 it lacks the entry, so only 4 counts.
    beat(demo=3)
    assert client.get_edit(edit).state is EditProgress.PUBLISHED
    beat(demo=4)
    assert client.get_edit(edit).state is EditProgress.SERVING
    assert client.wait_serving(demo, back.number, timeout_s=5).entry_count == 1

    assert (rolled.threshold, back.threshold) == (0.85, 0.85)
    revisions = list(client.list_revisions(demo, page_size=3))
    assert [(item.number, item.kind.value) for item in revisions] == [
        (1, "create"), (2, "publish"), (3, "rollback"), (4, "rollback"),
    ]  # fmt: skip
    assert revisions[1].edit_id == edit.edit_id
    assert all(item.serving for item in revisions)


def test_the_threshold_is_the_current_revisions(
    client: HorenClient,
    demo: CodebookName,
    submit: Callable[[str], EditView],
    publish: Callable[..., EditRecord],
) -> None:
    def known() -> list[float]:
        """What each reader is told."""
        sync = client.sync("replica-1", model="demo-model", fingerprint="f" * 64, known={})
        watched = next(client.watch_codebook(demo))
        views = [client.get_codebook(demo), *client.list_codebooks(), sync.deltas[0].codebook, watched]
        return [view.parameters.threshold for view in views]

    for prompt, threshold in (("Who leads Acme?", 0.1 + 0.2), ("Who owns Acme?", None), ("Where is Acme?", 2 / 3)):
        submit(prompt)
        publish(threshold)
    assert known() == [2 / 3] * 4
    assert client.rollback(demo, 2).threshold == 0.1 + 0.2
    assert known() == [0.1 + 0.2] * 4
    assert [it.threshold for it in client.list_revisions(demo)] == [0.85, 0.1 + 0.2, 0.1 + 0.2, 2 / 3, 0.1 + 0.2]


@pytest.mark.parametrize(("to", "code"), [(0, "invalid_revision"), (-3, "invalid_revision"), (9, "unknown_revision")])
def test_rollback_refuses(client: HorenClient, demo: CodebookName, to: int, code: str) -> None:
    with pytest.raises(HorenError) as caught:
        client.rollback(demo, to)
    assert caught.value.code == code


def test_watch_codebook_sends_each_change(
    client: HorenClient,
    demo: CodebookName,
    submit: Callable[[str], EditView],
    publish: Callable[[], EditRecord],
    beat: Callable[..., None],
) -> None:
    seen: list[CodebookView] = []
    started, done = threading.Event(), threading.Event()

    def watch() -> None:
        for view in client.watch_codebook(demo, timeout_s=10):
            seen.append(view)
            started.set()
            if view.revision == 2 and view.serving:
                break
        done.set()

    threading.Thread(target=watch, daemon=True).start()
    assert started.wait(5)
    submit("Who leads Acme?")
    publish()
    beat(demo=2)
    assert done.wait(5)
    assert (seen[0].revision, seen[-1].revision, seen[-1].entry_count) == (1, 2, 1)
    assert len(seen) in {2, 3}


def test_waits_end_with_their_deadline(client: HorenClient, demo: CodebookName) -> None:
    assert len(list(client.watch_codebook(demo, timeout_s=0.2))) == 1
    with pytest.raises(Unavailable) as caught:
        client.wait_serving(demo, 1, timeout_s=0.2)
    assert caught.value.code == "wait_timeout"
