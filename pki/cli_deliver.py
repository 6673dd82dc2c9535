"""`embrasure trust deliver`: trust files to metadata doors, past the gateway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from embrasure.command import Common, common

F = TypeVar("F", bound=Callable[..., object])
_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
SCHEMA = "embrasure.trust.deliver/1"


def direct_options(function: F) -> F:
    """The command takes `direct`, `identity` and `pins`: where to deliver at once, and as whom."""
    for option in (
        click.option("--pin", "pins", multiple=True, type=_FILE,
                     help="Believe this server certificate too: a node's boot certificate."),
        click.option("--identity", type=_DIR,
                     help="Your tls.key and tls.crt, as `pki issue operator/NAME` writes them."),
        click.option("--direct", "direct", multiple=True, metavar="KIND/NAME@HOST:PORT|FOLDER",
                     help="Then take it past the gateway to this door, or into this folder."),
    ):  # fmt: skip
        function = option(function)
    return function


@click.command("deliver")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--to", "targets", multiple=True, metavar="KIND/NAME@HOST:PORT|FOLDER",
              help="A door of a node, mirror or letterbox, or a folder (repeat).")  # fmt: skip
@click.option("--list", "lists", multiple=True, type=_FILE,
              help="A file of such targets, one a line: a whole fleet.")  # fmt: skip
@click.option("--identity", type=_DIR,
              help="Your tls.key and tls.crt, as `pki issue operator/NAME` writes.")  # fmt: skip
@click.option("--pin", "pins", multiple=True, type=_FILE,
              help="Believe this server certificate too: a node's boot certificate.")  # fmt: skip
@common
def trust_deliver(
    common: Common,
    folder: Path,
    targets: tuple[str, ...],
    lists: tuple[Path, ...],
    identity: Path | None,
    pins: tuple[Path, ...],
) -> int:
    """Take the trust files in force in DIR to doors, or into a folder to carry.

    A door takes root, targets, fleet and revocations, each of which verifies itself; it asks no
    denial and no state of your issuer. Nothing is installed by it. Exit 5 when a target was not
    reached, 4 when one refused something.

    \b
    Examples:
      embrasure trust deliver trust --to mirror/m1@10.0.0.5:7446 --identity people/anna
      embrasure trust deliver trust --list doors.txt --identity people/anna --json
      embrasure trust deliver trust --to /media/stick
    """
    from embrasure import limits
    from embrasure.fs import read_file

    named = list(targets)
    for file in lists:
        text = read_file(file, limit=limits.MIB).decode("utf-8", "replace")
        named += [line.strip() for line in text.splitlines() if line.strip()]
    return tell_delivery(common, deliver_to(folder, named, identity, pins))


def deliver_to(
    folder: Path, named: Sequence[str], identity: Path | None, pins: Sequence[Path]
) -> list[dict[str, object]]:
    """Return what became of each target, as JSON shows it; raises Misuse for none at all."""
    from embrasure.errors import Misuse
    from pki.deliver import deliver_all, parse_target

    if not named:
        raise Misuse("trust deliver", expected="--to or --list", got="neither")
    targets = [parse_target(text) for text in dict.fromkeys(named)]
    found = deliver_all(folder, targets, identity=identity, pins=pins)
    return [{**one.as_json(), "text": one.as_text(), "well": one.is_well} for one in found]


def tell_delivery(common: Common, found: list[dict[str, object]]) -> int:
    """Return the exit code after what became of the targets was told."""
    from embrasure.errors import Refused, Unavailable

    body = [{name: one[name] for name in one if name != "text"} for one in found]
    common.emit(SCHEMA, {"targets": body}, "\n".join(str(one["text"]) for one in found))
    if any(one["problem"] for one in found):
        return Unavailable.exit_code
    return 0 if all(one["well"] for one in found) else Refused.exit_code
