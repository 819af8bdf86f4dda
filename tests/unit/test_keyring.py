"""How long a key is believed, and what many requests with it cost."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from horen_vllm.errors import HorenError, Internal, NotFound, Unavailable
from horen_vllm.ids import TenantId
from horen_vllm.keyring import MAX_LOOKUPS, Keyring
from horen_vllm.keys import NewKey, new_key
from horen_vllm.registry.models import KeyRecord, KeyScope
from tests.unit.serving.doubles import Clock


class Control:
    """As much of a control plane as a keyring asks, with a count."""

    def __init__(self, *keys: NewKey, lifetime_s: float | None = None) -> None:
        now = datetime.now(UTC)
        expires = None if lifetime_s is None else now + timedelta(seconds=lifetime_s)
        self.records = {
            key.digest: KeyRecord(
                key_id=key.key_id,
                tenant=TenantId("acme"),
                scope=KeyScope.READ,
                created_at=now,
                expires_at=expires,
                revoked_at=None,
            )
            for key in keys
        }
        self.asked: list[str] = []
        self.failure: HorenError | None = None
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def resolve(self, digest: str) -> KeyRecord:
        self.asked.append(digest)
        self.started.set()
        assert self.gate.wait(5)
        if self.failure is not None:
            raise self.failure
        if digest not in self.records:
            raise NotFound("There is no such key, or it is no longer valid.", code="unknown_key")
        return self.records[digest]


KEY = new_key()
SECRET = KEY.secret.encode()


def run(control: Control, script: Callable[[Keyring, Clock], Awaitable[Any]], **options: Any) -> Any:
    async def body() -> Any:
        clock = Clock()
        keyring = Keyring(control.resolve, ttl_s=10.0, clock=clock, **options)
        try:
            return await script(keyring, clock)
        finally:
            control.gate.set()
            keyring.close()

    return asyncio.run(body())


async def known(keyring: Keyring, secret: bytes = SECRET) -> KeyRecord:
    record = await keyring.find(secret)
    assert record is not None
    return record


async def failure(keyring: Keyring, secret: bytes = SECRET) -> HorenError:
    with pytest.raises(HorenError) as caught:
        await keyring.find(secret)
    return caught.value


def test_a_key_is_looked_up_once_in_its_time() -> None:
    control = Control(KEY)

    async def script(keyring: Keyring, clock: Clock) -> None:
        for _ in range(5):
            assert (await known(keyring)).tenant == "acme"
        clock.now += 9.99
        await known(keyring)
        assert control.asked == [KEY.digest]
        clock.now += 0.01
        await known(keyring)
        assert len(control.asked) == 2

    run(control, script)


def test_a_revoked_key_lives_no_longer_than_the_bound() -> None:
    control = Control(KEY)

    async def script(keyring: Keyring, clock: Clock) -> None:
        await known(keyring)
        control.records.clear()
        clock.now += 9.9
        await known(keyring)
        clock.now += 0.1
        assert await keyring.find(SECRET) is None

    run(control, script)


def test_the_bound_counts_from_before_the_question() -> None:
    control = Control(KEY)

    async def script(keyring: Keyring, clock: Clock) -> None:
        control.gate.clear()
        asking = asyncio.ensure_future(known(keyring))
        assert await asyncio.to_thread(control.started.wait, 5)
        clock.now += 10.0
        control.gate.set()
        await asking
        await known(keyring)
        assert len(control.asked) == 2

    run(control, script)


def test_a_silent_control_plane_does_not_prolong_a_key() -> None:
    control = Control(KEY)

    async def script(keyring: Keyring, clock: Clock) -> None:
        await known(keyring)
        control.failure = Unavailable("the control plane at 10.0.0.1:8950 does not answer.", code="control_unavailable")
        clock.now += 9.9
        await known(keyring)
        clock.now += 0.1
        error = await failure(keyring)
        assert (type(error), error.code) == (Unavailable, "key_check_unavailable")
        assert "10.0.0.1" not in error.message
        control.failure = None
        await known(keyring)

    run(control, script)


def test_any_failure_of_the_control_plane_refuses() -> None:
    control = Control(KEY)
    control.failure = Internal("oops")

    async def script(keyring: Keyring, _clock: Clock) -> HorenError:
        return await failure(keyring)

    assert run(control, script).code == "key_check_unavailable"


def test_a_key_ends_with_its_time_whatever_is_remembered() -> None:
    control = Control(KEY, lifetime_s=5.0)

    async def script(keyring: Keyring, clock: Clock) -> None:
        await known(keyring)
        clock.now += 5.0
        control.records.clear()
        assert await keyring.find(SECRET) is None

    run(control, script)


def test_unknown_keys_are_remembered_as_such_for_as_long() -> None:
    control = Control()

    async def script(keyring: Keyring, clock: Clock) -> None:
        for _ in range(3):
            assert await keyring.find(SECRET) is None
        assert len(control.asked) == 1
        control.records = Control(KEY).records
        clock.now += 10.0
        await known(keyring)

    run(control, script)


def test_requests_at_the_same_time_ask_once() -> None:
    control = Control(KEY)

    async def script(keyring: Keyring, _clock: Clock) -> None:
        control.gate.clear()
        waiting = [asyncio.ensure_future(known(keyring)) for _ in range(50)]
        assert await asyncio.to_thread(control.started.wait, 5)
        waiting[0].cancel()
        await asyncio.sleep(0)
        control.gate.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert {answer.key_id for answer in answers[1:] if isinstance(answer, KeyRecord)} == {KEY.key_id}
        assert len(control.asked) == 1

    run(control, script)


def test_made_up_keys_push_no_real_one_out() -> None:
    control = Control(KEY)

    async def script(keyring: Keyring, _clock: Clock) -> None:
        await known(keyring)
        for _ in range(5):
            assert await keyring.find(new_key().secret.encode()) is None
        await known(keyring)
        assert control.asked.count(KEY.digest) == 1

    run(control, script, capacity=2)


def test_memory_is_bounded() -> None:
    keys = [new_key() for _ in range(4)]
    control = Control(*keys)

    async def script(keyring: Keyring, _clock: Clock) -> None:
        for key in (*keys, keys[0]):
            await known(keyring, key.secret.encode())
        assert control.asked.count(keys[0].digest) == 2

    run(control, script, capacity=2)


def test_a_flood_of_made_up_keys_is_turned_away_and_known_keys_get_through() -> None:
    control = Control(KEY)

    async def script(keyring: Keyring, clock: Clock) -> None:
        await known(keyring)
        clock.now += 10.0
        control.gate.clear()
        flood = [asyncio.ensure_future(keyring.find(new_key().secret.encode())) for _ in range(MAX_LOOKUPS)]
        await asyncio.sleep(0)
        started = time.monotonic()
        assert (await failure(keyring, new_key().secret.encode())).code == "key_check_unavailable"
        assert time.monotonic() - started < 1.0
        again = asyncio.ensure_future(known(keyring))
        await asyncio.sleep(0)
        control.gate.set()
        assert (await again).key_id == KEY.key_id
        assert set(await asyncio.gather(*flood)) == {None}

    run(control, script)


@pytest.mark.parametrize(
    "secret",
    [b"", b"hk_", SECRET[:-1], SECRET + b"A", SECRET.upper(), b"hk_" * 100_000, "schlüssel".encode(), b"\xff\x00"],
)
def test_text_of_another_form_is_never_looked_up(secret: bytes) -> None:
    control = Control(KEY)

    async def script(keyring: Keyring, _clock: Clock) -> KeyRecord | None:
        return await keyring.find(secret)

    assert run(control, script) is None
    assert control.asked == []


def test_the_secret_is_neither_sent_nor_logged() -> None:
    control = Control(KEY)
    control.failure = Unavailable("down")

    async def script(keyring: Keyring, _clock: Clock) -> HorenError:
        return await failure(keyring)

    with capture_logs() as logs:
        error = run(control, script)
    said = f"{logs}{control.asked}{error.message}{error.__cause__}"
    assert KEY.secret not in said
    assert KEY.secret.removeprefix(f"hk_{KEY.key_id}_") not in said
    assert KEY.digest not in str(logs)
