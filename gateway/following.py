"""Following a roll-out from an operator's machine: one line a change, an honest end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from embrasure.command import Common
from embrasure.errors import Unavailable
from embrasure.wire import admin_pb2 as wire
from gateway.client import AdminClient
from gateway.rollout_text import change_text

LOOK_SECONDS = 0.5
HEARTBEAT_SECONDS = 30.0
AWAY_SECONDS = 15.0  # a gateway that is started again answers within this time

Done = Callable[[dict[str, Any]], bool]


def read_status(client: AdminClient, name: str) -> dict[str, Any]:
    """Return the body of `embrasure.rollout.status/1`."""
    return dict(client.json("RolloutStatus", wire.RolloutQuery(id=name)))


def follow(
    client: AdminClient, name: str, common: Common, done: Done | None = None
) -> dict[str, Any]:
    """Return the status once the roll-out has settled (or `done` says so).

    Raises Unavailable (`unknown`) when `--timeout` passed or the gateway stayed away; the
    roll-out goes on.
    """
    begin = heard = told = time.monotonic()
    line, last = "", "nothing"
    while True:
        now = time.monotonic()
        try:
            found = read_status(client, name)
            heard, last = now, str(found["state"])
            if (new := change_text(found)) != line or now - told >= HEARTBEAT_SECONDS:
                common.say(f"{name}: {new}")
                line, told = new, now
            if done(found) if done else bool(found["settled"]):
                return found
        except Unavailable:
            if now - heard >= AWAY_SECONDS:
                raise _unknown(name, last, "the gateway does not answer") from None
        if common.timeout_s is not None and now - begin >= common.timeout_s:
            raise _unknown(name, last, "the time is over")
        time.sleep(LOOK_SECONDS)


def _unknown(name: str, last: str, why: str) -> Unavailable:
    return Unavailable(
        f"roll-out {name}",
        expected="its end",
        got=f"unknown: still {last} when last seen; {why}",
        untouched="the roll-out goes on",
        hint=f"embrasure rollout wait {name}",
        reason="unknown",
    )


def detach_hint(name: str) -> str:
    """Return what whoever stops following should know."""
    return f"the roll-out goes on; to follow it again: embrasure rollout wait {name}"
