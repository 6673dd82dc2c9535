"""`embrasure release build|inspect|diff|verify`: local bundles; nothing is signed or sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from embrasure.command import Common, common

if TYPE_CHECKING:
    from embrasure.bundle.diff import FieldChange, FileChange
    from embrasure.bundle.folder import Bundle
    from embrasure.bundle.manifest import Entry

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--app", help="The app's name; else from app.toml.")
@click.option("--version", help="The release's version; else from app.toml.")
@click.option("--out", type=_FOLDER, help="The bundle's folder; else ./APP-VERSION.bundle.")
@common
def release_build(
    common: Common, folder: Path, app: str | None, version: str | None, out: Path | None
) -> None:
    """Make a bundle of DIR (app.toml, code/, config/).

    The same input gives the same digest on any machine. Modes are normalised to 0444 and 0555;
    times and owners do not count. Devices, sockets and set-user-id files are refused.

    \b
    Examples:
      embrasure release build ./shop --out shop-1.0.bundle
      embrasure release build ./shop --version 1.1 --json
    """
    from embrasure.bundle.build import build, write_bundle
    from embrasure.undo import all_or_nothing

    built = build(folder, app=app, version=version)
    manifest = built.manifest
    target = out if out is not None else Path(f"{manifest.app}-{manifest.version}.bundle")
    if built.ignored:
        common.say(f"not shipped: {', '.join(built.ignored)}")
    with all_or_nothing(target):
        is_new = write_bundle(built, target)
    body = {
        "app": manifest.app,
        "version": manifest.version,
        "digest": f"sha256:{built.digest}",
        "files": len(manifest.files),
        "bytes": manifest.total_bytes(),
        "bundle": str(target),
        "new": is_new,
        "not_shipped": list(built.ignored),
    }
    text = (
        f"{manifest.app} {manifest.version} sha256:{built.digest}\n"
        f"{len(manifest.files)} paths, {manifest.total_bytes()} bytes in {target}"
        f"{'' if is_new else ' (already there)'}"
    )
    common.emit("embrasure.release.build/1", body, text)


@click.command()
@click.argument("bundle", type=_FOLDER)
@click.option("--files", is_flag=True, help="List every path with mode, length and digest.")
@common
def release_inspect(common: Common, bundle: Path, files: bool) -> None:
    """Show what BUNDLE holds and how it runs. Blobs are not hashed: see `release verify`.

    \b
    Examples:
      embrasure release inspect shop-1.0.bundle
      embrasure release inspect shop-1.0.bundle --files --json
    """
    from embrasure.bundle.folder import open_bundle

    found = open_bundle(bundle)
    common.emit(
        "embrasure.release.inspect/1",
        _inspected(found, with_files=files),
        _inspected_text(found, with_files=files),
    )


@click.command()
@click.argument("old", type=_FOLDER)
@click.argument("new", type=_FOLDER)
@click.option("--files", is_flag=True, help="Show every file, however many.")
@common
def release_diff(common: Common, old: Path, new: Path, files: bool) -> None:
    """Show what changes from bundle OLD to bundle NEW: commands, probes, hooks, files, modes.

    Files that can run, or that a command names, come first and are marked with `!`.

    \b
    Examples:
      embrasure release diff shop-1.0.bundle shop-1.1.bundle
      embrasure release diff shop-1.0.bundle shop-1.1.bundle --json
    """
    from embrasure.bundle.diff import SHOWN_FILES, diff, render
    from embrasure.bundle.folder import open_bundle

    before, after = open_bundle(old), open_bundle(new)
    found = diff(before.manifest, after.manifest)
    body = {
        "old": f"sha256:{before.digest}",
        "new": f"sha256:{after.digest}",
        "fields": [_field(change) for change in found.fields],
        "files": [_change(change) for change in found.files],
        "unchanged": found.unchanged,
    }
    text = "\n".join(
        [
            f"old sha256:{before.digest}",
            f"new sha256:{after.digest}",
            render(found, most=len(found.files) if files else SHOWN_FILES),
        ]
    )
    common.emit("embrasure.release.diff/1", body, text)


@click.command()
@click.argument("bundle", type=_FOLDER)
@common
def release_verify(common: Common, bundle: Path) -> None:
    """Check every path, length and digest of BUNDLE; exit 4 when one does not hold.

    Who approved it is not checked: an approval is made of signatures, and lives at the gateway.

    \b
    Examples:
      embrasure release verify shop-1.0.bundle
      embrasure release verify shop-1.0.bundle --json
    """
    from embrasure.bundle.folder import open_bundle, verify_bundle

    found = open_bundle(bundle)
    unnamed = verify_bundle(found)
    if unnamed:
        common.say(f"not in the manifest, never shipped: {len(unnamed)} files")
    blobs = found.manifest.blobs()
    body = {
        "digest": f"sha256:{found.digest}",
        "blobs": len(blobs),
        "bytes": sum(blobs.values()),
        "unnamed": list(unnamed),
    }
    text = f"sha256:{found.digest}: {len(blobs)} blobs, {sum(blobs.values())} bytes, all as named"
    common.emit("embrasure.release.verify/1", body, text)


def _inspected(found: Bundle, *, with_files: bool) -> dict[str, object]:
    import msgspec

    manifest: dict[str, object] = msgspec.to_builtins(found.manifest)
    files = manifest.pop("files")
    body = {
        "digest": f"sha256:{found.digest}",
        "paths": len(found.manifest.files),
        "bytes": found.manifest.total_bytes(),
        "manifest": manifest,
    }
    return {**body, "files": files} if with_files else body


def _inspected_text(found: Bundle, *, with_files: bool) -> str:
    from embrasure.bundle.diff import describe

    manifest = found.manifest
    lines = [
        f"digest sha256:{found.digest}",
        *describe(manifest),
        f"{len(manifest.files)} paths, {manifest.total_bytes()} bytes",
    ]
    if with_files:
        lines += [_path_line(entry) for entry in manifest.files]
    return "\n".join(lines)


def _path_line(entry: Entry) -> str:
    link = f" -> {entry.target}" if entry.target is not None else ""
    return f"{entry.mode} {entry.length:>12} {entry.sha256} {entry.path}{link}"


def _field(change: FieldChange) -> dict[str, object]:
    return {"name": change.name, "old": change.old, "new": change.new}


def _change(change: FileChange) -> dict[str, object]:
    import msgspec

    return {
        "path": change.path,
        "kind": change.kind,
        "notable": change.is_notable,
        "old": msgspec.to_builtins(change.old),
        "new": msgspec.to_builtins(change.new),
    }
