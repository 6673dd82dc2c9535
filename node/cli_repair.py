"""`node repair`: what was changed on disk is what was approved again."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from node.cli import EXITS, finer, plain_option
from node.options import node_options


@click.command(epilog=EXITS)
@node_options
@plain_option
@click.argument("app")
@click.option(
    "--from", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A repository, such as a stick, that has what is lost here.",
)  # fmt: skip
@common
def node_repair(
    common: Common, prefix: Path, app: str, folder: Path | None, plain_exit: bool
) -> int:
    """Rebuild the committed release of APP where its files differ, and start it again.

    It is built in a new folder from bytes whose digests were approved, and takes the place of the
    damaged one in one step. Nothing is done when nothing differs. Releases that are kept for a
    roll-back or by a pin are rebuilt, too; the app is not started again for them.

    \b
    Examples:
      embrasure node verify shop
      embrasure node repair shop
      embrasure node repair shop --from /media/stick/repository
    """
    from node import exits, show, stick
    from node.paths import Paths

    with finer(plain_exit):
        answer = stick.repair(Paths(prefix.resolve()), app, folder, common.say)
    code = exits.exit_of(answer)
    code = exits.plain(code) if plain_exit else code
    common.emit(
        "embrasure.node.repair/1", show.answers_json([answer], code), show.answers_text([answer])
    )
    return code
