"""What a node will ask for as soon as it has an order, sent along with it.

Each question would cost the node a round trip, and as much as an installed file. Whatever else it
lacks it asks for. It believes nothing of it that it would not believe on the stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound
from embrasure.trust import layout
from embrasure.trust.view import View
from embrasure.wire.node_pb2 import Ahead
from gateway.feed import Feed


def ahead_of(feed: Feed, view: View, *, env: str, app: str, manifest: str) -> list[Ahead]:
    """Return the files that every order for the app makes a node want, as far as they are small.

    manifest: digest of the one that the plan names
    """
    found, room = list[Ahead](), limits.AHEAD_BYTES
    for path in _paths(view, env=env, app=app, manifest=manifest):
        file = _read(feed, path, room)
        if file is not None and len(found) < limits.AHEAD_FILES:
            found.append(file)
            room -= len(file.body)
    return found


def _read(feed: Feed, path: str, room: int) -> Ahead | None:
    try:
        body = b"".join(feed.fetch(path, offset=0, limit=room))
    except NotFound:
        return Ahead(path=path, absent=True)
    except EmbrasureError:
        return None  # too long: it is asked for
    return Ahead(path=path, body=body)


def _paths(view: View, *, env: str, app: str, manifest: str) -> Iterator[str]:
    """Yield what a node asks for, in the order in which it asks."""
    own, gates = layout.app_role(env, app), layout.gates_role(env)
    yield layout.metadata_file(layout.TIMESTAMP, 0)
    yield layout.metadata_file(layout.ROOT, view.roles[layout.ROOT].version + 1)
    for name in (layout.SNAPSHOT, own, gates):
        if (role := view.role(name)) is not None:
            yield layout.metadata_file(name, role.version)
    yield from _targets(view, own, (layout.plan_path(env, app),
                                    layout.manifest_path(env, app, manifest)))  # fmt: skip
    yield from _targets(view, gates, (layout.gate_path(env, app),))


def _targets(view: View, role: str, paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if (listed := view.target(role, path)) is not None:
            yield layout.target_file(path, listed.sha256)
