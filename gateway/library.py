"""What is published, read once for each view: paths for feed and mirrors, facts of each app."""

from __future__ import annotations

import threading

from embrasure.bundle.packing import PackedSource
from embrasure.errors import Unavailable
from embrasure.net.denials import tls_denials
from embrasure.net.trustbundle import Trust, trust_of
from embrasure.trust import layout
from embrasure.trust.view import View
from embrasure.wire.node_pb2 import Ahead
from gateway.ahead import ahead_of
from gateway.feed import Feed
from gateway.gates import Ground, load_ground
from gateway.published import Contents, Shelf
from gateway.repository import Repository


class Library:
    """Caches over the repository; any thread may ask."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._shelf = Shelf(repository.source())
        self._lock = threading.Lock()
        self._contents: Contents | None = None
        self._grounds: dict[tuple[str, str], tuple[int, Ground]] = {}
        self.feed = Feed(PackedSource(repository.source()), self.contents)

    def version(self) -> int:
        """Return the version of the published timestamp; raises Refused when nothing is."""
        return _version(self._repository.view())

    def contents(self) -> Contents:
        """Return every published path; from here on nodes may ask for them."""
        with self._lock:
            view = self._repository.view()
            if self._contents is None or self._contents.timestamp != _version(view):
                self._contents = self._shelf.contents(view)
            self.feed.show(self._contents)
            return self._contents

    def ground(self, env: str, app: str) -> Ground:
        """Return the verified facts of one app; raises Refused, Damaged."""
        with self._lock:
            view = self._repository.view()
            held = self._grounds.get((env, app))
            if held is None or held[0] != _version(view):
                source, denials = self._repository.source(), self._repository.denials
                found = load_ground(view, source, denials, env=env, app=app)
                held = (_version(view), found)
                self._grounds[(env, app)] = held
            return held[1]

    def ahead(self, env: str, app: str, manifest: str) -> list[Ahead]:
        """Return what an order for the app is sent with; manifest: digest of the plan's."""
        with self._lock:
            view = self._repository.view()
        return ahead_of(self.feed, view, env=env, app=app, manifest=manifest)

    def trust(self, env: str, app: str) -> Trust:
        """Return whom to believe on TLS in `env`: its verified `tls.json`, less what is denied."""
        ground = self.ground(env, app)
        docs = ground.docs
        if docs.tls is None:
            raise Unavailable(f"environment {env}", expected="a TLS trust bundle", got="none")
        return trust_of(docs.tls, tls_denials(ground.denied))


def _version(view: View) -> int:
    return view.roles[layout.TIMESTAMP].version
