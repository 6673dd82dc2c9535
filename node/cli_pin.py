"""The owner's word on which releases stay on a node: pin one, or let it go."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from node.options import node_options


@click.command()
@node_options
@click.argument("app")
@click.argument("release")
@common
def node_pin(common: Common, prefix: Path, app: str, release: str) -> None:
    """Keep RELEASE of APP on this node, however many newer ones come.

    RELEASE is its folder's name below releases/, or the number in front. What runs and the way back
    stay anyway; blobs of a pinned release stay with it. It takes disk until `node unpin`.

    \b
    Examples:
      embrasure node pin shop 14
    """
    from node import pins
    from node.paths import Paths

    found = pins.put(Paths(prefix.resolve()), app, release)
    common.emit("embrasure.node.pin/1", {"app": app, "release": found, "pinned": True},
                f"{app}: {found} stays")  # fmt: skip


@click.command()
@node_options
@click.argument("app")
@click.argument("release")
@common
def node_unpin(common: Common, prefix: Path, app: str, release: str) -> None:
    """Let RELEASE of APP go when its time comes.

    \b
    Examples:
      embrasure node unpin shop 14
    """
    from node import pins
    from node.paths import Paths

    found = pins.take_away(Paths(prefix.resolve()), app, release)
    common.emit("embrasure.node.pin/1", {"app": app, "release": found, "pinned": False},
                f"{app}: {found} is pinned no longer")  # fmt: skip
