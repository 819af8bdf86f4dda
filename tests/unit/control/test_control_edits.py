"""EditService over real gRPC and a real registry."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from horen_vllm.control import limits
from horen_vllm.control.client import EditProgress, EditView, HorenClient
from horen_vllm.errors import AlreadyExists, FailedPrecondition, HorenError, InvalidArgument, NotFound, Unavailable
from horen_vllm.ids import DEFAULT_TENANT, CodebookName
from horen_vllm.registry.models import EditRecord, EditSpec, Publication, ReplicaReport
from horen_vllm.registry.store import SqlRegistry


def test_submit_stores_the_whole_spec(client: HorenClient, demo: CodebookName) -> None:
    spec = EditSpec(
        prompt="Wer führt Acme? 🦉",
        target="Ada",
        subject="Acme",
        aliases=("ACME Inc",),
        paraphrases=("Acme's head?", "Head of Acme?"),
        must_not_fire=("Who leads Bolt?",),
    )
    edit = client.submit_edit("demo", spec)
    assert (edit.codebook, edit.spec, edit.state) == (demo, spec, EditProgress.COMMITTED)
    assert (edit.sequence, edit.active, edit.published_revision) == (1, False, None)
    assert edit.created_at.tzinfo is not None
    for name in (edit, edit.name, edit.edit_id):
        assert client.get_edit(name) == edit


def test_submit_is_idempotent_by_request_id(client: HorenClient, demo: CodebookName, spec: EditSpec) -> None:
    first = client.submit_edit(demo, spec, request_id="r1")
    assert client.submit_edit(demo, spec, request_id="r1").edit_id == first.edit_id
    assert client.submit_edit(demo, spec).edit_id != first.edit_id
    with pytest.raises(AlreadyExists) as caught:
        client.submit_edit(demo, replace(spec, target="Bob"), request_id="r1")
    assert caught.value.code == "request_id_reused"


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"prompt": ""}, "empty_prompt", "prompt"),
        ({"prompt": " \n\t"}, "empty_prompt", "prompt"),
        ({"prompt": "p" * 32_769}, "prompt_too_long", "32768"),
        ({"prompt": "a\x00b"}, "invalid_text", "prompt"),
        ({"prompt": "a\udcffb"}, "invalid_text", "prompt"),
        ({"target": "\ud800"}, "invalid_text", "target"),
        ({"subject": "\udcff"}, "invalid_text", "subject"),
        ({"aliases": ("a", "\udcff")}, "invalid_text", "aliases"),
        ({"paraphrases": ("\udcff",)}, "invalid_text", "paraphrases"),
        ({"must_not_fire": ("a", "\udcff")}, "invalid_text", "must_not_fire"),
        ({"target": ""}, "empty_target", "target"),
        ({"target": "t" * 16_385}, "target_too_long", "16384"),
        ({"subject": "s" * 1_025}, "subject_too_long", "1024"),
        ({"aliases": ("a",) * 65}, "too_many_items", "aliases"),
        ({"paraphrases": ("a",) * 65}, "too_many_items", "paraphrases"),
        ({"must_not_fire": ("a",) * 65}, "too_many_items", "must_not_fire"),
        ({"paraphrases": ("a", " ")}, "empty_item", "paraphrases[1]"),
        ({"must_not_fire": ("p" * 32_769,)}, "item_too_long", "must_not_fire[0]"),
        ({"subject": "Bolt"}, "subject_not_in_prompt", "'Bolt' is not in the prompt."),
        ({"subject": "Bolt", "aliases": ("B", "Bolt AG")}, "subject_not_in_prompt", "one of its 2 aliases"),
        (
            {"must_not_fire": ("Who?", "who  leads ACME?")},
            "contradictory_edit",
            "must_not_fire[1] is the same text as prompt",
        ),
        (
            {"paraphrases": ("A?", "Acme\u2019s head?"), "must_not_fire": ("ACME\u2019S head?",)},
            "contradictory_edit",
            "must_not_fire[0] is the same text as paraphrases[1]",
        ),
    ],
)
def test_submit_refuses(client: HorenClient, demo: CodebookName, change: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.submit_edit(demo, EditSpec(**{"prompt": "Who leads Acme?", "target": "Ada", **change}))
    assert caught.value.code == code
    assert field in caught.value.message
    assert list(client.list_edits(demo)) == []


@pytest.mark.parametrize(
    ("prompt", "subject", "aliases"),
    [
        ("Who leads ACME  Corp?", "Acme\nCorp", ()),
        ("Who leads the firm from Ulm?", "Acme", ("Bolt", "the FIRM")),
        ("谁领导艾克美公司\uff1f", "艾克美", ()),
        ("ใครบริหารบริษัทแอคมี", "แอคมี", ()),
        ("من يدير شركة أكمي؟", "أكمي", ()),
        ("Où habite Zoe\u0308?", "ZOË", ()),
        ("Wer leitet die \uff21\uff43\uff4d\uff45 Straße?", "Acme STRASSE", ()),
    ],
)
def test_a_subject_is_found_as_prompts_are_compared(prompt: str, subject: str, aliases: tuple[str, ...]) -> None:
    spec = EditSpec(prompt=prompt, target="Ada", subject=subject, aliases=aliases)
    assert limits.check_spec(spec) == spec


def test_an_edit_may_repeat_itself(spec: EditSpec) -> None:
    again = replace(spec, paraphrases=(spec.prompt, spec.prompt.upper()), must_not_fire=("Who left?", "Who left?"))
    assert limits.check_spec(again) == again


def test_undecodable_bytes_are_refused_wherever_a_user_may_put_them(client: HorenClient, spec: EditSpec) -> None:
    bad = "a\udcff"
    calls: dict[str, Callable[[], object]] = {
        "codebook_id": lambda: client.create_codebook(bad, preset="cosine", threshold=0.8),
        "preset": lambda: client.create_codebook("demo", preset=bad, threshold=0.8),
        "parent": lambda: client.submit_edit(bad, spec),
        "request_id": lambda: client.submit_edit("demo", spec, request_id=bad),
        "name": lambda: client.get_edit(bad),
        "known": lambda: client.sync("r", model="m", fingerprint="f", known={CodebookName(DEFAULT_TENANT, bad): 1}),
    }
    for field, call in calls.items():
        with pytest.raises(InvalidArgument, match=f"^{field} is not valid Unicode") as caught:
            call()
        assert caught.value.code == "invalid_text"
        caught.value.message.encode()


def test_the_servers_own_check_refuses_undecodable_bytes_too(spec: EditSpec) -> None:
    with pytest.raises(InvalidArgument, match=r"paraphrases\[1\]") as caught:
        limits.check_spec(replace(spec, paraphrases=("a", "\udcff")))
    assert caught.value.code == "invalid_text"


def test_whole_surrogate_pairs_are_text(client: HorenClient, demo: CodebookName) -> None:
    assert client.submit_edit(demo, EditSpec(prompt="\U0001f989?", target="\uffff")).spec.prompt == "\U0001f989?"


def test_a_codebook_of_another_base_model_takes_no_edits(
    client: HorenClient, registry: SqlRegistry, demo: CodebookName, spec: EditSpec
) -> None:
    other = CodebookName(DEFAULT_TENANT, "other")
    parameters = registry.get_codebook(demo).parameters
    registry.create_codebook(other, model="big-model", fingerprint="0" * 64, site="x", parameters=parameters)
    with pytest.raises(FailedPrecondition, match=r"'big-model'.*'demo-model'") as caught:
        client.submit_edit(other, spec)
    assert caught.value.code == "fingerprint_mismatch"
    assert list(client.list_edits(other)) == []
    # It is still shown, and rolls back like any other.
    assert [(view.name, view.model) for view in client.list_codebooks()] == [
        (demo, "demo-model"), (other, "big-model"),
    ]  # fmt: skip
    assert client.get_codebook(other).fingerprint == "0" * 64
    assert client.rollback(other, 1).number == 2
    assert client.submit_edit(demo, spec).state is EditProgress.COMMITTED


def test_limits_themselves_are_allowed(client: HorenClient, demo: CodebookName) -> None:
    spec = EditSpec(prompt="ü" * 32_768, target="t" * 16_384, must_not_fire=("p" * 32_768,) * 64)
    assert client.submit_edit(demo, spec).spec == spec


def test_request_id_length(client: HorenClient, demo: CodebookName, spec: EditSpec) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.submit_edit(demo, spec, request_id="r" * 129)
    assert caught.value.code == "invalid_request_id"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("e0", "unknown_edit"),
        ("tenants/default/codebooks/demo/edits/e0", "unknown_edit"),
        ("tenants/other/codebooks/demo/edits/e0", "unknown_edit"),
        ("tenants/other/codebooks/-/edits/e0", "unknown_edit"),
        ("demo/e0", "invalid_name"),
        ("tenants/default/codebooks/demo/edits/" + "e" * 300, "invalid_name"),
        ("tenants/default/codebooks/De mo/edits/e0", "invalid_name"),
    ],
)
def test_get_and_watch_refuse(client: HorenClient, demo: CodebookName, name: str, code: str) -> None:
    calls: list[Callable[[], object]] = [lambda: client.get_edit(name), lambda: list(client.watch_edit(name))]
    for call in calls:
        with pytest.raises(HorenError) as caught:
            call()
        assert caught.value.code == code


def test_an_edit_is_found_in_its_own_codebook_only(client: HorenClient, submit: Callable[[str], EditView]) -> None:
    client.create_codebook("other", preset="cosine", threshold=0.8)
    edit = submit("Who leads Acme?")
    with pytest.raises(NotFound) as caught:
        client.get_edit(f"tenants/default/codebooks/other/edits/{edit.edit_id}")
    assert caught.value.code == "unknown_edit"


def test_list_pages_in_order(client: HorenClient, demo: CodebookName, submit: Callable[[str], EditView]) -> None:
    ids = [submit(f"Question {number}?").edit_id for number in range(5)]
    for size in (0, 1, 2, 5):
        assert [view.edit_id for view in client.list_edits(demo, page_size=size)] == ids


def test_watch_follows_an_edit_until_it_serves(
    client: HorenClient,
    submit: Callable[[str], EditView],
    publish: Callable[[], EditRecord],
    beat: Callable[..., None],
) -> None:
    edit = submit("Who leads Acme?")
    seen: list[EditView] = []
    started, ended = threading.Event(), threading.Event()

    def watch() -> None:
        for view in client.watch_edit(edit, timeout_s=10):
            seen.append(view)
            started.set()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    assert started.wait(5)
    publish()
    assert client.wait_edit(edit, until=EditProgress.PUBLISHED, timeout_s=5).published_revision == 2
    # Without a live replica nothing serves it, so the watch goes on.
    assert not ended.wait(0.2)
    beat("replica-1", demo=2)
    assert ended.wait(5)
    states = [view.state for view in seen]
    assert states[0] is EditProgress.COMMITTED
    assert states[-2:] == [EditProgress.PUBLISHED, EditProgress.SERVING]
    assert (seen[-1].replicas_serving, seen[-1].replicas_total) == (1, 1)


def test_a_trained_edit_is_shown_as_trained(
    client: HorenClient, registry: SqlRegistry, submit: Callable[[str], EditView]
) -> None:
    edit = submit("Who leads Acme?")
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="f" * 64)
    watch = client.watch_edit(edit, until=EditProgress.TRAINED, timeout_s=10)
    assert next(watch).state is EditProgress.TRAINING
    registry.trained((claim,))
    assert [view.state for view in watch] == [EditProgress.TRAINED]


def test_every_live_replica_counts(
    client: HorenClient,
    submit: Callable[[str], EditView],
    publish: Callable[[], EditRecord],
    beat: Callable[..., None],
) -> None:
    edit = submit("Who leads Acme?")
    publish()
    beat("replica-1", demo=2)
    beat("replica-2")
    nothing = ReplicaReport(applied={}, probed={})
    client.heartbeat("elsewhere", model="m", fingerprint="other-model", epoch=client.epoch(), report=nothing)
    view = client.get_edit(edit)
    assert (view.state, view.replicas_serving, view.replicas_total) == (EditProgress.PUBLISHED, 1, 2)
    with pytest.raises(Unavailable) as caught:
        client.wait_edit(edit, timeout_s=0.2)
    assert caught.value.code == "wait_timeout"
    assert "PUBLISHED" in caught.value.message


def test_failed_edits_end_the_watch_with_their_reason(
    client: HorenClient, registry: SqlRegistry, submit: Callable[[str], EditView]
) -> None:
    edit = submit("Who leads Acme?")
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="f" * 64)
    assert client.get_edit(edit).state is EditProgress.TRAINING
    registry.fail(claim, "not_learned", "The loss stayed at 3.2.")
    view = client.wait_edit(edit, timeout_s=5)
    assert (view.state, view.reason_code, view.reason) == (
        EditProgress.FAILED, "not_learned", "The loss stayed at 3.2.",
    )  # fmt: skip


def test_a_published_edit_may_carry_a_note(
    client: HorenClient, registry: SqlRegistry, submit: Callable[[str], EditView], beat: Callable[..., None]
) -> None:
    edit = submit("Who leads Acme?")
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="f" * 64)
    publication = Publication(
        artifact="ab" * 32, base_revision=1, reason_code="already_answered", reason="the model says so by itself."
    )
    registry.publish([(claim, publication)])
    beat(demo=2)
    view = client.get_edit(edit)
    assert (view.state, view.reason_code, view.reason) == (
        EditProgress.SERVING, "already_answered", "the model says so by itself.",
    )  # fmt: skip


def test_same_as_shares_the_other_edits_activity(
    client: HorenClient,
    registry: SqlRegistry,
    submit: Callable[[str], EditView],
    publish: Callable[[], EditRecord],
    beat: Callable[..., None],
) -> None:
    first = submit("Who leads Acme?")
    publish()
    again = submit("Who leads Acme?")
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="f" * 64)
    registry.finish_same(claim, first.edit_id)
    beat(demo=2)
    view = client.get_edit(again)
    assert (view.state, view.same_as, view.published_revision) == (EditProgress.SERVING, first.edit_id, 2)
    client.rollback("demo", 1)
    assert client.get_edit(again).state is EditProgress.INACTIVE
    assert client.wait_edit(again, timeout_s=5).state is EditProgress.INACTIVE


def test_watch_refuses_states_that_nobody_waits_for(client: HorenClient, submit: Callable[[str], EditView]) -> None:
    edit = submit("Who leads Acme?")
    with pytest.raises(InvalidArgument) as caught:
        list(client.watch_edit(edit, until=EditProgress.FAILED))
    assert caught.value.code == "invalid_until"
