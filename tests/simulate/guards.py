"""What stands in the place of a guard that an ablation takes away: the same work, without the look.

Most guards return nothing and raise; for them nothing at all stands there. Where a guard also
does or returns something, this does it as if all were well. A limit is only much larger.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import msgspec

from embrasure.bundle.incoming import BlobWriter
from embrasure.bundle.manifest import Entry, Manifest, Run
from embrasure.fs import Folder
from embrasure.trust import decide, documents
from embrasure.trust.floors import PairStore
from embrasure.trust.workflow import vouching
from node import tree, units
from node.asking import IpcSource
from node.asking import Pace as AskingPace
from tests.ablation import Attack

TIMES = 100  # how much larger a limit is


def nothing(*_: object, **__: object) -> None:
    """Let it pass."""


def split(path: str) -> tuple[str, ...]:
    """Take any path as it is."""
    return tuple(path.split("/"))


def lenient(value: object, shape: type[Any], document: str) -> Any:
    """Take a manifest as a reader without a schema does: what it does not know it passes over,
    whatever kind an entry has, and a command line is split as a shell does.
    """
    if shape is not Manifest or not isinstance(value, dict):
        return _CONVERT(value, shape, document)
    run = _known(value["run"], Run)
    if isinstance(run["argv"], str):
        run["argv"] = shlex.split(run["argv"])
    whole = {**_known(value, Manifest), "run": run, "files": ()}
    found: Manifest = _CONVERT(whole, Manifest, document)
    files = tuple(Entry(**_known(one, Entry)) for one in value["files"])
    return msgspec.structs.replace(found, files=files)


def _known(value: Mapping[str, Any], shape: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name in shape.__struct_fields__}


def as_given(argv: Sequence[str], **how: Any) -> list[str]:
    """Start whatever the command says."""
    with suppress(KeyError):
        return _RESOLVE(argv, **how)
    return list(argv)


def from_zero(store: PairStore[Any], *, repair: bool = True) -> Any:
    """Begin again at the first floors where all were lost."""
    if not store._both()[0]:
        for path in store._files.values():
            path.unlink(missing_ok=True)
        store.create(store.shape.first())
    return _LOAD(store, repair=repair)


def endless(source: IpcSource, pipe: int, limit: int, pace: AskingPace) -> Iterator[bytes]:
    """Take more than was asked for."""
    return _PIECES(source, pipe, limit * TIMES, pace)


def unbounded(writer: BlobWriter, piece: bytes) -> None:
    """Write more than was signed."""
    length, writer.length = writer.length, writer.length * TIMES
    try:
        _WRITE(writer, piece)
    finally:
        writer.length = length


def name_whatever(releases: Folder, *, tx: str, release: str) -> None:
    """Give the name to whatever is there."""
    releases.rename(tree.staging_name(tx), releases, release)


_CONVERT, _LOAD, _PIECES = documents.convert, PairStore.load, IpcSource._pieces
_WRITE, _RESOLVE = BlobWriter.write, units.resolve
INSTEAD: Mapping[str, Callable[..., object]] = {
    "embrasure.bundle.paths.check_path": split,
    "embrasure.trust.documents.convert": lenient,
    "embrasure.trust.plain._comes_out_again": lambda *_: True,
    "embrasure.trust.floors.PairStore.load": from_zero,
    "embrasure.trust.decide._matters": lambda *_: False,
    "embrasure.bundle.incoming.BlobWriter.write": unbounded,
    "node.asking.IpcSource._pieces": endless,
    "node.tree.name_release": name_whatever,
    "node.units.resolve": as_given,
    "tuf.api.metadata.Signed.is_expired": lambda *_: False,
}


def found(name: str) -> object:
    """Return what the product has at a dotted name; raises when there is nothing."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            at: object = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            at = getattr(at, part)
        return at
    raise ModuleNotFoundError(name)


def take_away(attack: Attack, *names: str) -> None:
    """These guards, and nothing else, are gone until the block of `attack` ends."""
    for name in names:
        real = found(name)
        if real in decide._STEPS:
            steps = tuple(step for step in decide._STEPS if step is not real)
            attack.without("embrasure.trust.decide._STEPS", steps)
            continue
        attack.without(name, real * TIMES if isinstance(real, int) else INSTEAD.get(name, nothing))
        if name.startswith(vouching.__name__):
            # It remembers whom it believed: what it believes now is forgotten with this block.
            attack.without(f"{vouching.__name__}._memory", vouching._Memory())
