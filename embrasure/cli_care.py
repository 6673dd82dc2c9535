"""`pki inventory` and `doctor`: who holds what, what ends when, what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from embrasure.command import Common, attribute, common, seconds
from embrasure.errors import EmbrasureError, Misuse

if TYPE_CHECKING:
    from embrasure.expiry import Item

_ASKED = "gateway.care_context:asked"
_DIRS = click.Path(path_type=Path)
_DUE = "Exit codes: 0 quiet, 1 something ends inside its window or has ended, 2-5 as elsewhere."
_WRONG = "Exit codes: 0 nothing found, 1 something found, 2-5 as elsewhere."


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else seconds(value)
    except Misuse as problem:
        raise click.BadParameter(str(problem), ctx, param) from None


@click.command("inventory", epilog=_DUE)
@click.argument("folders", metavar="[DIR...]", nargs=-1, type=_DIRS)
@click.option(
    "--expiring",
    "expiring_s",
    metavar="DUR",
    callback=_seconds,
    help="Tell what ends within DUR; what lives less than twice DUR keeps its own window.",
)
@common
def pki_inventory(common: Common, folders: tuple[Path, ...], expiring_s: float | None) -> int:
    """List every certificate, metadata role, key epoch and token: holder, end, what to run.

    DIR: a trust, gateway, mirror, letterbox, node or operator folder. With --context the gateway
    is asked too: it knows its own certificates and those of its nodes.

    \b
    Examples:
      embrasure pki inventory trust --expiring 14d --json
      embrasure pki inventory trust gateway --context anna/context.toml
    """
    from embrasure.clock import now, write_time
    from embrasure.expiry import told
    from embrasure.places import recognise

    if not folders and common.context is None:
        raise Misuse("inventory", expected="a folder or --context", got="neither")
    at = now()
    items = [item for folder in folders for item in recognise(folder).items()]
    if common.context is not None:
        ask = cast("Callable[[Path, float | None], list[Item]]", attribute(_ASKED))
        items += ask(common.context, common.timeout_s)
    due = told(items, at, expiring_s)
    body = {
        "at": write_time(at),
        "quiet": not due,
        "items": [item.as_json(at, expiring_s) for item in items],
    }
    common.emit("embrasure.pki.inventory/1", body, _table(items, due))
    return 1 if due else 0


def _table(items: list[Item], due: list[Item]) -> str:
    from embrasure.clock import write_time

    # The same thing in two folders is one line; --json has both, with their places.
    lines: dict[str, None] = {}
    for item in sorted(items, key=lambda one: (one.until is None, one.until, one.what)):
        if item.until is None:
            continue
        mark = "! " if item in due else "  "
        line = f"{mark}{write_time(item.until)}  {item.title}  {item.holder}"
        if item in due:
            line += f"\n    {item.action}: {item.command}"
        lines[line] = None
    roles = [item for item in items if item.until is None and item.kind != "key"]
    lines.update((f"  elsewhere             {item.what}  {item.holder}", None) for item in roles)
    keys = len({item.name for item in items if item.kind == "key"})
    if keys:
        lines[f"  without an end: keys of {keys} nodes (--json lists them)"] = None
    end = f"{len(due)} to do" if due else "quiet"
    return "\n".join([*lines, end])


@click.command("doctor", epilog=_WRONG)
@click.argument("folders", metavar="[DIR...]", nargs=-1, type=_DIRS)
@common
def doctor(common: Common, folders: tuple[Path, ...]) -> int:
    """Look for what is wrong in folders of ours and on this host: one line each, one fix each.

    DIR: a trust, gateway, mirror, letterbox, node or operator folder (default: the one of
    --context). Needs no passphrase and changes nothing.

    \b
    Examples:
      embrasure doctor gateway
      embrasure doctor trust gateway node1 --json
    """
    from embrasure.advice import verb
    from embrasure.clock import now
    from embrasure.findings import Finding, host
    from embrasure.places import recognise

    asked = folders or ((common.context,) if common.context is not None else ())
    if not asked:
        raise Misuse("doctor", expected="a folder or --context", got="neither")
    at, found, looked = now(), host(), []
    for folder in asked:
        place = recognise(folder)
        looked.append({"kind": place.kind, "folder": str(place.folder)})
        try:
            found += place.findings(at)
        except EmbrasureError as problem:
            # What cannot be read is the finding; the other folders are looked at all the same.
            fix = problem.hint or verb("doctor", place.folder, "--verbose")
            found.append(Finding("read", problem.thing, str(problem), fix))
    body = {"ok": not found, "looked": looked, "findings": [one.as_json() for one in found]}
    lines = [line for one in found for line in one.lines()]
    common.emit("embrasure.doctor/1", body, "\n".join(lines) or "nothing found")
    return 1 if found else 0
