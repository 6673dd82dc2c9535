"""`embrasure node token`, `node image`: joining by a token, and what an image must not hold."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from embrasure.errors import Misuse
from node.options import node_options, token_options


@click.command()
@node_options
@token_options
@common
def node_token(common: Common, prefix: Path, token_fd: int | None, token_file: Path | None) -> None:
    """Answer for a new join token with the statement that this node made.

    For a node whose first token ran out before the security team had asked. Of the token nothing
    is kept: only a MAC over the statement, which is no secret.

    \b
    Examples:
      embrasure node token --root /srv/n1 --token-fd 3 3< token
      embrasure node token --root /srv/n1 --token-file token
    """
    from node.config import load_config
    from node.paths import Paths
    from node.setup import keep_token
    from node.tokens import read_token

    paths = Paths(prefix.resolve())
    config = load_config(paths)
    token = read_token(fd=token_fd, file=token_file)
    if not token:
        raise Misuse("node token", expected="--token-fd or --token-file", got="neither",
                     hint="embrasure node token --token-fd 3 3< token")  # fmt: skip
    keep_token(paths, token, env=config.env, node=config.id)
    body = {"node": config.id, "env": config.env}
    common.emit("embrasure.node.token/1", body, f"node {config.id} answers for the new token")


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@common
def node_image(common: Common, folder: Path) -> None:
    """Check that a machine image, or what you add to one, holds public data only.

    Private keys, key files, join tokens, and the keys or the enrolment of a node are refused: two
    machines must not be one node. Run it in the image build, on the folder that becomes the image.

    \b
    Examples:
      embrasure node image rootfs
      embrasure node image rootfs --json
    """
    from node.image import check_image

    count = check_image(folder.resolve())
    common.emit(
        "embrasure.node.image/1", {"folder": str(folder), "files": count},
        f"{folder}: {count} files, public data only",
    )  # fmt: skip
