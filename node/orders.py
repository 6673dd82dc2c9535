"""The last of something for each app, by digest: an order is obeyed once, an alarm is told once."""

from __future__ import annotations

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound
from embrasure.fs import Folder
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import AppName, Digest, Document, read, write
from node.paths import Paths

ORDERS, ALARMS = "orders.json", "alarms.json"


class _Digests(Document, frozen=True, kw_only=True):
    last: dict[AppName, Digest]


class Last:
    """SHA-256 of the last one of each app, in one small file.

    Losing it is safe: a repeated order then meets its own floor and is refused as a replay, and an
    alarm is told once more.
    """

    def __init__(self, paths: Paths, name: str) -> None:
        self._folder = paths.state
        self._name = name

    def is_last(self, app: str, payload: bytes) -> bool:
        """Return whether this very one was the last of its app."""
        return self._load().get(app) == sha256_hex(payload)

    def keep(self, app: str, payload: bytes) -> None:
        """This one is the last of its app, on disk."""
        last = {**self._load(), app: sha256_hex(payload)}
        with Folder.open(self._folder) as folder:
            folder.replace(self._name, write(_Digests(last=last)))

    def _load(self) -> dict[str, str]:
        with Folder.open(self._folder) as folder:
            try:
                raw = folder.read(self._name, limit=limits.ORDERS_BYTES)
                return dict(
                    read(raw, _Digests, limit=limits.ORDERS_BYTES, document=self._name).last
                )
            except (NotFound, EmbrasureError):
                return {}
