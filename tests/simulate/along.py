"""What an honest gateway sends along with an order: the product's own choice, out of any files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from embrasure.bundle.packing import PackedSource
from embrasure.clock import now
from embrasure.trust import layout
from embrasure.trust.view import Role, Target, View
from embrasure.wire.node_pb2 import Ahead
from gateway.ahead import ahead_of
from gateway.feed import Feed
from gateway.published import Contents
from tests.simulate.sources import MemorySource


def sent_along(files: Mapping[str, bytes], *, env: str, app: str, manifest: str) -> list[Ahead]:
    """Return what goes along with an order for the app; manifest: its digest."""
    feed = Feed(PackedSource(MemorySource(dict(files))))
    feed.show(Contents(1, frozenset(files), frozenset()))
    return ahead_of(feed, view_of(files), env=env, app=app, manifest=manifest)


def view_of(files: Mapping[str, bytes]) -> View:
    """Return what the published files say, as somebody sees them who has verified them."""
    stamp = _signed(files, layout.metadata_file(layout.TIMESTAMP, 0))
    number = stamp["meta"]["snapshot.json"]["version"]
    snapshot = _signed(files, layout.metadata_file(layout.SNAPSHOT, number))
    roles = {layout.TIMESTAMP: _role(layout.TIMESTAMP, stamp)}
    roles[layout.SNAPSHOT] = _role(layout.SNAPSHOT, snapshot)
    for file, about in snapshot["meta"].items():
        name = file.removesuffix(".json")
        roles[name] = _role(name, _signed(files, layout.metadata_file(name, about["version"])))
    last = max(n for n in range(1, 100) if layout.metadata_file(layout.ROOT, n) in files)
    roles[layout.ROOT] = _role(
        layout.ROOT, _signed(files, layout.metadata_file(layout.ROOT, last))
    )  # fmt: skip
    return View(root_id="", roles=roles, fresh=True)


def _signed(files: Mapping[str, bytes], path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files[path])["signed"]
    return found


def _role(name: str, signed: Mapping[str, Any]) -> Role:
    targets = {
        path: Target(one["length"], one["hashes"]["sha256"])
        for path, one in signed.get("targets", {}).items()
    }
    return Role(
        name=name, version=signed["version"], expires=now(), threshold=1, keys=frozenset(),
        signers=frozenset(), sha256="", targets=targets,
    )  # fmt: skip
