"""A publication is rehearsed: a fresh client, as a new node has it, verifies all of it first."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from embrasure.clock import Clock
from embrasure.errors import Refused
from embrasure.trust.client import TrustClient
from embrasure.trust.view import View
from gateway.overlay import Overlay, check_listed


@contextmanager
def rehearsed(
    state: Path, anchor: bytes, source: Overlay, *, names: Sequence[str], clock: Clock
) -> Iterator[tuple[TrustClient, View]]:
    """Yield a client that trusts `anchor` alone, and what it verified; raises what a node would.

    state: where its folder may lie meanwhile; names: the delegated roles to load
    """
    with tempfile.TemporaryDirectory(dir=state, prefix="check-") as folder:
        client = TrustClient(Path(folder) / "tuf", anchor, clock=clock)
        yield client, client.refresh(source, roles=names, tolerate_expired=True)


def check_changed(
    client: TrustClient,
    view: View,
    source: Overlay,
    changed: Mapping[str, int],
    problems: Mapping[str, str],
) -> None:
    """Return only when each changed role verified, with every document it lists; raises Refused.

    changed: role -> version; problems: role -> why nodes cannot use it
    """
    for role, version in sorted(changed.items()):
        found = view.role(role)
        if found is None or found.version != version or role in problems:
            why = problems.get(role, "no delegation")
            raise Refused(role, expected="to verify", got=why, reason="orphan")
        for path in found.targets:
            check_listed(client, view, role, path, source)
