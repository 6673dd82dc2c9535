"""The owner's word to a node: hold an app, let it go, take no order for a while."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common, seconds
from node.options import node_options


def _emit(common: Common, schema: str, app: str, told: str, text: str) -> None:
    common.emit(schema, {"app": app, "hold": told}, text)


@click.command()
@node_options
@click.argument("app")
@click.option("--for", "length", required=True, metavar="DURATION", help="At most 7d: 30m, 4h.")
@click.option("--reason", required=True, help="Shown in `node status`, and to the gateway.")
@common
def node_hold(common: Common, prefix: Path, app: str, length: str, reason: str) -> None:
    """Install nothing new of APP for a while; it ends by itself.

    What runs goes on, a release that fails still goes back, and denials still arrive. A second hold
    takes the place of the first.

    \b
    Examples:
      embrasure node hold shop --for 4h --reason "end of the quarter"
    """
    from node import hold
    from node.paths import Paths

    made = hold.put(Paths(prefix.resolve()), app, seconds=seconds(length), reason=reason)
    _emit(common, "embrasure.node.hold/1", app, made.told(), f"{app}: {made.told()}")


@click.command()
@node_options
@click.argument("app")
@common
def node_unhold(common: Common, prefix: Path, app: str) -> None:
    """Let APP be installed again before its hold ends.

    \b
    Examples:
      embrasure node unhold shop
    """
    from node import hold
    from node.paths import Paths

    was = hold.take_away(Paths(prefix.resolve()), app)
    text = f"{app}: " + ("held no longer" if was else "was not held")
    _emit(common, "embrasure.node.hold/1", app, "", text)


@click.command()
@node_options
@click.argument("state", type=click.Choice(["on", "off"]))
@click.option("--for", "length", metavar="DURATION", help="With `on`: at most 7d.")
@click.option("--reason", default="maintenance", show_default=True, help="Shown in `node status`.")
@common
def node_maintenance(
    common: Common, prefix: Path, state: str, length: str | None, reason: str
) -> None:
    """Finish the install under way, then take no order for a while; it ends by itself.

    \b
    Examples:
      embrasure node maintenance on --for 2h
      embrasure node maintenance off
    """
    from embrasure.errors import Misuse
    from node import hold
    from node.paths import Paths

    if (state == "on") != (length is not None):
        raise Misuse(
            "--for",
            expected="a duration with `on`, none with `off`",
            got=length or "none",
            hint="embrasure node maintenance on --for 2h",
        )
    paths, told, text = Paths(prefix.resolve()), "", "no maintenance"
    if length is not None:
        told = hold.put(paths, hold.NODE, seconds=seconds(length), reason=reason).told()
        text = f"takes no order, {told}"
    else:
        hold.take_away(paths, hold.NODE)
    _emit(common, "embrasure.node.hold/1", "", told, text)
