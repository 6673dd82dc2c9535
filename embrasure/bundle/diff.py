"""What changes from one release to the next, in the words of the manifest, for people to approve.

Everything that comes from outside is escaped; what is cut is cut visibly and named by its digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from embrasure.bundle.manifest import Entry, ExecProbe, Manifest
from embrasure.errors import MAX_SHOWN, shown
from embrasure.trust.canonical import canonical, sha256_hex

_ONE_WAY = "yes: once its hook migrate has begun, a failure stops the app and nothing goes back"
SHOWN_FILES = 100  # in `render`; the counts are always whole


@dataclass(frozen=True, slots=True)
class FileChange:
    """One path that is not as it was."""

    path: str
    old: Entry | None
    new: Entry | None
    is_named: bool = False  # in a command of the new release

    @property
    def kind(self) -> Literal["added", "removed", "changed"]:
        """What happened to the path."""
        if self.old is None:
            return "added"
        return "removed" if self.new is None else "changed"

    @property
    def is_notable(self) -> bool:
        """Return whether it can run, points elsewhere, or changes its mode or kind."""
        if self.new is None or self.is_named:
            return self.is_named
        if self.old is not None and (self.old.mode, self.old.kind) != (
            self.new.mode,
            self.new.kind,
        ):
            return True
        return self.new.kind == "link" or (self.new.kind, self.new.mode) == ("file", "0555")


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of the manifest that is not as it was; None where there was or is nothing."""

    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Diff:
    """All that changes; `files` sorted by path, `fields` in the manifest's order."""

    fields: tuple[FieldChange, ...]
    files: tuple[FileChange, ...]
    unchanged: int  # files
    old_bytes: int
    new_bytes: int

    @property
    def is_empty(self) -> bool:
        """Return whether nothing changes."""
        return not self.fields and not self.files

    def of_kind(self, kind: Literal["added", "removed", "changed"]) -> tuple[FileChange, ...]:
        """Return the file changes of one kind."""
        return tuple(change for change in self.files if change.kind == kind)


def diff(old: Manifest | None, new: Manifest) -> Diff:
    """Return what `new` changes; old: None for a first release, where all is new."""
    before = {entry.path: entry for entry in old.files} if old is not None else {}
    after = {entry.path: entry for entry in new.files}
    paths = sorted(before.keys() | after.keys())
    named = _named(new)
    changes = tuple(
        FileChange(path, before.get(path), after.get(path), path in named)
        for path in paths
        if before.get(path) != after.get(path)
    )
    was = dict(_fields(old)) if old is not None else {}
    will = dict(_fields(new))
    names = [*will, *(name for name in was if name not in will)]
    return Diff(
        fields=tuple(
            FieldChange(name, was.get(name), will.get(name))
            for name in names
            if was.get(name) != will.get(name)
        ),
        files=changes,
        unchanged=len(paths) - len(changes),
        old_bytes=old.total_bytes() if old is not None else 0,
        new_bytes=new.total_bytes(),
    )


def _named(manifest: Manifest) -> frozenset[str]:
    """Return every argument of every command: a script is named behind its interpreter."""
    commands = [manifest.run.argv, *(hook.argv for hook in manifest.hooks)]
    commands += [probe.argv for probe in manifest.probes if isinstance(probe, ExecProbe)]
    return frozenset(argument for argv in commands for argument in argv)


def _fields(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield every field but the files, as one line of JSON each; a default is a line too."""
    yield "app", manifest.app
    yield "version", manifest.version
    yield "run.argv", _line(manifest.run.argv)
    for name in sorted(manifest.run.env):
        yield f"run.env.{name}", _line(manifest.run.env[name])
    yield "run.ports", _line(manifest.run.ports)
    for hook in manifest.hooks:
        yield f"hook {hook.point}", _line(msgspec.to_builtins(hook))
    for number, probe in enumerate(manifest.probes, start=1):
        yield f"probe {number}", _line(msgspec.to_builtins(probe))
    yield "confirm", manifest.confirm
    for require in manifest.requires:
        yield f"requires {require.app}", f"seq {require.min_seq} or later"
    for secret in manifest.secrets:
        yield f"secret {secret.name}", f"version {secret.min_version} or later, {secret.mode}"
    yield "irreversible", _ONE_WAY if manifest.irreversible else "no"
    yield "origin", _line(msgspec.to_builtins(manifest.origin))


def describe(manifest: Manifest) -> list[str]:
    """Return a line for every field but the files, escaped for a terminal."""
    return [f"{shown(name)}: {_cut(text)}" for name, text in _fields(manifest)]


def _line(value: object) -> str:
    return canonical(value).decode("utf-8")


def render(found: Diff, *, most: int = SHOWN_FILES) -> str:
    """Return the change as text for a terminal: fields first, then files that can run, then others.

    most: file lines shown; the rest is counted
    """
    lines = [line for change in found.fields for line in _field_lines(change)]
    lines.append(_counts(found))
    # What can run, and what points elsewhere, is never the part that is cut first.
    ordered = sorted(found.files, key=lambda change: (not change.is_notable, change.path))
    lines += [_file_line(change) for change in ordered[:most]]
    if len(ordered) > most:
        lines.append(f"  ... {_kinds(ordered[most:])} not shown: embrasure release diff --files")
    return "\n".join(lines)


def _field_lines(change: FieldChange) -> list[str]:
    if change.old is None:
        return [f"+ {shown(change.name)}: {_cut(change.new)}"]
    if change.new is None:
        return [f"- {shown(change.name)}: {_cut(change.old)}"]
    return [
        f"- {shown(change.name)}: {_cut(change.old)}",
        f"+ {shown(change.name)}: {_cut(change.new)}",
    ]


def _cut(text: str | None) -> str:
    """Return the text escaped; a cut one with its digest, so that no two look the same."""
    whole = text or ""
    if len(whole) <= MAX_SHOWN:
        return shown(whole)
    return f"{shown(whole)} sha256:{sha256_hex(whole.encode('utf-8', 'surrogatepass'))[:16]}"


def _counts(found: Diff) -> str:
    return (
        f"files: {_kinds(found.files) or 'no change'}, {found.unchanged} unchanged; "
        f"{found.old_bytes} -> {found.new_bytes} bytes"
    )


def _kinds(changes: Sequence[FileChange]) -> str:
    counts = [
        (kind, sum(1 for change in changes if change.kind == kind))
        for kind in ("added", "changed", "removed")
    ]
    return ", ".join(f"{count} {kind}" for kind, count in counts if count)


_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def _file_line(change: FileChange) -> str:
    line = f"  {_SIGNS[change.kind]} {shown(change.path)} ({_what(change)})"
    return f"{line} !" if change.is_notable else line


def _what(change: FileChange) -> str:
    """Say what matters of one path: kind, mode, size, target, and a digest that changed."""
    entry = change.new or change.old
    if entry is None:
        return ""
    if entry.kind == "link":
        was = change.old.target if change.old is not None and change.new is not None else None
        link = f"link to {shown(entry.target)}"
        return f"{link}, was {shown(was)}" if was not in (None, entry.target) else link
    if change.old is not None and change.new is not None:
        parts = []
        if change.old.kind != change.new.kind:
            parts.append(f"{change.old.kind} -> {change.new.kind}")
        if change.old.mode != change.new.mode:
            parts.append(f"mode {change.old.mode} -> {change.new.mode}")
        if change.old.sha256 != change.new.sha256:
            parts.append(f"content, {change.old.length} -> {change.new.length} bytes")
        return ", ".join(parts)
    return f"{entry.kind}, mode {entry.mode}, {entry.length} bytes"
