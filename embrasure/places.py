"""Which of our folders a folder is, and who can say what lies in it: each package for its own.

The packages are imported by name and only when a folder of theirs is looked at, so a node's host
needs no code that signs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from embrasure.command import attribute
from embrasure.errors import Misuse

if TYPE_CHECKING:
    from embrasure.expiry import Item
    from embrasure.findings import Finding

Kind = Literal["trust", "gateway", "mirror", "letterbox", "node", "operator"]
_MARKS: tuple[tuple[Kind, str], ...] = (
    ("trust", "fleet.toml"),
    ("gateway", "gateway.toml"),
    ("mirror", "mirror.toml"),
    ("letterbox", "letterbox.toml"),
    ("node", "etc/embrasure/node.toml"),
    ("operator", "context.toml"),
)
_ITEMS: dict[Kind, str] = {
    "trust": "pki.inventory:items",
    "gateway": "gateway.inventory:items",
    "mirror": "mirror.care:items",
    "letterbox": "mirror.care:items",
    "node": "node.care:items",
    "operator": "gateway.care_context:items",
}
_FINDINGS: dict[Kind, str] = {
    "trust": "pki.doctor:findings",
    "gateway": "gateway.doctor:findings",
    "mirror": "mirror.care:findings",
    "letterbox": "mirror.care:findings",
    "node": "node.care:findings",
    "operator": "gateway.care_context:findings",
}


@dataclass(frozen=True, slots=True)
class Place:
    """One folder of ours."""

    kind: Kind
    folder: Path

    def items(self) -> list[Item]:
        """Return what lies in it and ends one day; raises the errors of reading it."""
        read = cast("Callable[[Path], list[Item]]", attribute(_ITEMS[self.kind]))
        return read(self.folder)

    def findings(self, at: datetime) -> list[Finding]:
        """Return what is wrong with it."""
        look = cast("Callable[[Path, datetime], list[Finding]]", attribute(_FINDINGS[self.kind]))
        return look(self.folder, at)


def recognise(folder: Path) -> Place:
    """Return which of our folders this is; raises Misuse for any other."""
    where = folder.parent if folder.name == "context.toml" else folder
    for kind, mark in _MARKS:
        if (where / mark).is_file():
            return Place(kind, where)
    raise Misuse(
        str(folder),
        expected="a folder with one of " + ", ".join(mark for _, mark in _MARKS),
        got="none of them",
        hint="name a trust, gateway, mirror, letterbox, node (--root) or operator folder",
    )
