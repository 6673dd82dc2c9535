"""`embrasure node recover`: what a timer does for a node whose agent died in an install."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from node.cli import EXITS, finer, plain_option
from node.options import node_options


@click.command(epilog=EXITS)
@node_options
@plain_option
@common
def node_recover(common: Common, prefix: Path, plain_exit: bool) -> int:
    """Undo what an agent left open when it died; with an agent that runs, do nothing.

    An install that was cut off goes back to the release before it: nobody is left to finish it, or
    to hear that it may stay. One that still has time is left to the agent, should it come back.
    Needs no server; a timer calls it every minute.

    \b
    Examples:
      embrasure node recover --root /srv/n1
    """
    from node import alone, exits
    from node.paths import Paths

    with finer(plain_exit):
        found = alone.undo(Paths(prefix.resolve()))
    common.emit("embrasure.node.recover/1", found.as_json(), found.text())
    code = exits.DEGRADED if found.degraded else exits.DONE
    return exits.plain(code) if plain_exit else code
