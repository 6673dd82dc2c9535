"""The owner's pins: releases that no collection takes away, however old they are.

A file in the owner's folder, which the node only reads, as with holds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from embrasure import limits
from embrasure.errors import EmbrasureError, Misuse, NotFound, Refused
from embrasure.fs import Folder, lock, read_file, replace_file
from embrasure.trust.documents import AppName, Document, read, write
from node.paths import Paths
from node.states import ReleaseName

LOCK = "pins"


class Pin(Document, frozen=True, kw_only=True):
    """One release of one app."""

    app: AppName
    release: ReleaseName


class Pins(Document, frozen=True, kw_only=True):
    """Every pin of a node."""

    v: Literal[1]
    pins: Annotated[tuple[Pin, ...], Meta(max_length=limits.PINS)]


def load(paths: Paths) -> tuple[Pin, ...]:
    """Return every pin; raises Denied, Refused for a file that cannot be read."""
    try:
        raw = read_file(paths.pins, limit=limits.PINS_BYTES, unshared=True)
    except NotFound:
        return ()
    return read(raw, Pins, limit=limits.PINS_BYTES, document=paths.pins.name).pins


def pinned(paths: Paths, app: str) -> set[str]:
    """Return the pinned releases of an app: all that are there when the file cannot be read."""
    try:
        return {pin.release for pin in load(paths) if pin.app == app}
    except EmbrasureError:
        return set(there(paths, app))


def there(paths: Paths, app: str) -> list[str]:
    """Return the releases of an app on this node, oldest first."""
    try:
        with Folder.open(paths.releases(app)) as folder:
            names = [name for name in folder.list() if not name.startswith(".")]
    except NotFound:
        return []
    return sorted(names, key=lambda name: int(name.partition("-")[0]))


def find(paths: Paths, app: str, wanted: str) -> str:
    """Return the release that `wanted` names, by its whole name or its number; raises Misuse."""
    names = there(paths, app)
    found = [name for name in names if wanted in (name, name.partition("-")[0])]
    if len(found) != 1:
        raise Misuse(
            f"release {wanted}", expected=f"one of {', '.join(names) or 'none'}",
            got="no such release" if not found else "several", untouched="what is pinned",
            hint=f"its whole name, as in {paths.releases(app)}",
        )  # fmt: skip
    return found[0]


def put(paths: Paths, app: str, wanted: str) -> str:
    """Return the release that is pinned from now on; raises Misuse, Refused (`limit`)."""
    with lock(paths.lock / LOCK, seconds=limits.LOCK_SECONDS):
        pin = Pin(app=app, release=find(paths, app, wanted))
        found = {*load(paths), pin}
        if len(found) > limits.PINS:
            raise Refused("pins", expected=f"at most {limits.PINS}", got="more", reason="limit",
                          hint="let one go: embrasure node unpin APP RELEASE")  # fmt: skip
        _save(paths, found)
    return pin.release


def take_away(paths: Paths, app: str, wanted: str) -> str:
    """Return the release that is pinned no longer; raises Misuse when it was not."""
    with lock(paths.lock / LOCK, seconds=limits.LOCK_SECONDS):
        found = set(load(paths))
        gone = {pin for pin in found if pin.app == app
                and wanted in (pin.release, pin.release.partition("-")[0])}  # fmt: skip
        if not gone:
            raise Misuse(f"release {wanted}", expected=f"a pinned release of {app}", got="none",
                         untouched="what is pinned",
                         hint=f"what is pinned stands in {paths.pins}")  # fmt: skip
        _save(paths, found - gone)
    return ", ".join(sorted(pin.release for pin in gone))


def _save(paths: Paths, pins: set[Pin]) -> None:
    ordered = tuple(sorted(pins, key=lambda pin: (pin.app, pin.release)))
    replace_file(paths.config, paths.pins.name, write(Pins(v=1, pins=ordered)), mode=0o644)
