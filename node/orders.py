"""The last order of each app: the same one again is answered, never obeyed a second time."""

from __future__ import annotations

from embrasure.errors import EmbrasureError, NotFound
from embrasure.fs import Folder
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import AppName, Digest, Document, read, write
from node.paths import Paths

_NAME = "orders.json"
_BYTES = 128 * 1024


class _Orders(Document, frozen=True, kw_only=True):
    last: dict[AppName, Digest]


class LastOrders:
    """SHA-256 of the payload of each app's last obeyed order.

    Losing it is safe: a repeated order then meets its own floor, and is refused as a replay.
    """

    def __init__(self, paths: Paths) -> None:
        self._folder = paths.state

    def is_last(self, app: str, payload: bytes) -> bool:
        """Return whether this very order was the last one of its app."""
        return self._load().get(app) == sha256_hex(payload)

    def keep(self, app: str, payload: bytes) -> None:
        """This order is the last one of its app, on disk."""
        last = {**self._load(), app: sha256_hex(payload)}
        with Folder.open(self._folder) as folder:
            folder.replace(_NAME, write(_Orders(last=last)))

    def _load(self) -> dict[str, str]:
        with Folder.open(self._folder) as folder:
            try:
                raw = folder.read(_NAME, limit=_BYTES)
                return dict(read(raw, _Orders, limit=_BYTES, document="last orders").last)
            except (NotFound, EmbrasureError):
                return {}
