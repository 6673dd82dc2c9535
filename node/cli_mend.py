"""`embrasure node mend`: the owner's files as the last whole start of the node had them."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from node.cli import EXITS, finer, plain_option
from node.options import node_options


@click.command(epilog=EXITS)
@node_options
@plain_option
@click.option(
    "--forget", default="", metavar="NAME",
    help="Of this app, or of `node`, what you wrote or removed is meant: no copy counts.",
)  # fmt: skip
@common
def node_mend(common: Common, prefix: Path, forget: str, plain_exit: bool) -> int:
    """Write back node.toml and apps.d files that are damaged or lost, from the node's own copy.

    A damaged file is kept beside it as `.broken`. Whole files are never touched. Then start the
    node again; an app alone is changed again at once.

    \b
    Examples:
      embrasure node mend
      embrasure node mend --forget shop
    """
    from node import exits, mending
    from node.paths import Paths

    with finer(plain_exit):
        found = mending.mend(Paths(prefix.resolve()), forget=forget)
    common.emit("embrasure.node.mend/1", found.as_json(), found.text())
    code = exits.DAMAGED if found.left else exits.DONE
    return exits.plain(code) if plain_exit else code
