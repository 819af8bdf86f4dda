"""Named places at which a process can be made to die, to fail or to wait: how tests prove what survives a fault.

Off unless ``HOREN_FAILPOINTS`` is set, or a test arms some: then a place costs one look at an attribute. What is asked
for is ``NAME=ACTION`` or ``NAME=ACTION@N``, joined by semicolons. ``@N``: only the N-th time that the process comes by
(1, 2, 3...); without it, every time. Actions:

``kill``
    SIGKILL: the process is gone at once, as after a power cut or the kernel's memory killer.
``error``
    raises `InjectedFault`.
``sleep:SECONDS``
    blocks the thread that came by.

Knows the names of the places, not what stands around them.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

VARIABLE: Final = "HOREN_FAILPOINTS"
"""Environment variable that is read when this module is imported."""

COMMITS: Final = (
    "create_codebook",
    "delete_codebook",
    "undelete_codebook",
    "import_codebook",
    "rollback",
    "submit",
    "retire_edit",
    "retire_expired",
    "set_threshold",
    "update_quota",
    "claim",
    "extend",
    "trained",
    "give_back",
    "publish",
    "finish_same",
    "fail",
    "heartbeat",
    "create_tenant",
    "add_key",
    "revoke_key",
    "rotate_key",
    "end_key",
    "add_calibration",
    "begin_epoch",
)
"""Transactions of the registry, as `Database.write` is told them: a failpoint before the commit, and one after it."""

WRITES: Final = ("artifact.before_temp", "artifact.before_rename", "artifact.after_rename", "artifact.after_sync")
"""While a file of an artifact folder is written."""

ANSWERS: Final = ("control.before_answer", "control.after_answer")
"""Between a handler and its client: before the answer leaves, and once the call has ended, however it did."""

FLIPS: Final = (
    "replica.before_flip",
    "replica.after_flip",
    "replica.before_probe",
    "replica.after_probe",
    "replica.before_heartbeat",
    "replica.after_heartbeat",
)
"""On the way of a revision into a serving engine, and of the word of it to the control plane."""

FAILPOINTS: Final = frozenset(
    {*WRITES, *ANSWERS, *FLIPS}
    | {f"registry.{commit}.{side}" for commit in COMMITS for side in ("before_commit", "after_commit")}
)
"""Every name there is."""


class InjectedFault(Exception):
    """What the action ``error`` raises: an exception that nobody expects."""


@dataclass(frozen=True, slots=True)
class _Action:
    """What is to happen at one place."""

    kind: str
    seconds: float = 0.0
    hit: int | None = None
    """The time at which it happens, from 1; None: every time."""


class _Armed:
    """Actions by name, and how often the process has come by."""

    def __init__(self, actions: Mapping[str, _Action]) -> None:
        self._actions = actions
        self._hits = dict.fromkeys(actions, 0)
        self._lock = threading.Lock()

    def reach(self, name: str) -> None:
        action = self._actions.get(name)
        if action is None:
            return
        with self._lock:
            self._hits[name] += 1
            due = action.hit in {None, self._hits[name]}
        if due:
            _do(action, name)


class _Switch:
    """Holds what is armed in this process; None: nothing."""

    armed: _Armed | None = None


def failpoint(name: str) -> None:
    """Mark a place; does what was asked for it, if anything."""
    if _Switch.armed is not None:
        _Switch.armed.reach(name)


def arm(wanted: str) -> None:
    """Ask for `wanted` from now on, in place of what was asked before; an empty text asks for nothing.

    Raises
    ------
    ValueError
        For a name or an action that is not known.
    """
    actions = parse(wanted)
    _Switch.armed = _Armed(actions) if actions else None
    if actions:
        logging.getLogger(__name__).warning("failpoints are armed: %s", wanted)


def parse(wanted: str) -> Mapping[str, _Action]:
    """Read what ``HOREN_FAILPOINTS`` says; raises as `arm`."""
    parts = [part.strip() for part in wanted.split(";") if part.strip()]
    return MappingProxyType(dict(map(_parse_one, parts)))


def _parse_one(part: str) -> tuple[str, _Action]:
    name, _, asked = part.partition("=")
    if name not in FAILPOINTS:
        raise ValueError(f"{VARIABLE} names {name!r}, which is no failpoint: see horen_vllm.failpoints.FAILPOINTS.")
    what, _, hit = asked.partition("@")
    kind, _, seconds = what.partition(":")
    try:
        action = _Action(kind, float(seconds or 0), int(hit) if hit else None)
    except ValueError as exc:
        raise _unreadable(part) from exc
    timed = kind == "sleep" and action.seconds > 0
    if not (timed or (kind in {"kill", "error"} and not seconds)) or (action.hit is not None and action.hit < 1):
        raise _unreadable(part)
    return name, action


def _unreadable(part: str) -> ValueError:
    return ValueError(f"{VARIABLE} says {part!r}; expected NAME=kill, =error or =sleep:SECONDS, each with @N or not.")


def _do(action: _Action, name: str) -> None:
    if action.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action.kind == "error":
        raise InjectedFault(name)
    time.sleep(action.seconds)


arm(os.environ.get(VARIABLE, ""))
