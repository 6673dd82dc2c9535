"""`embrasure mirror trust`, `letterbox trust`: trust files from a folder, while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from embrasure.command import Common, common

if TYPE_CHECKING:
    from mirror.config import Kind

_IN = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command("trust")
@click.argument("folder", metavar="DIR", type=_IN)
@click.argument("source", metavar="FROM", type=_IN)
@common
def mirror_trust(common: Common, folder: Path, source: Path) -> int:
    """Take newer trust files from the folder FROM and show them; a running mirror obeys them.

    They verify themselves. FROM is any folder with metadata/ and targets/: the security team's
    own, another mirror's public folder, a stick.

    \b
    Example:
      embrasure mirror trust m1 /media/stick
    """
    return _take("mirror", common, folder, source)


@click.command("trust")
@click.argument("folder", metavar="DIR", type=_IN)
@click.argument("source", metavar="FROM", type=_IN)
@common
def letterbox_trust(common: Common, folder: Path, source: Path) -> int:
    """Take newer trust files from the folder FROM; a running letterbox obeys them.

    \b
    Example:
      embrasure letterbox trust l1 /media/stick
    """
    return _take("letterbox", common, folder, source)


def _take(kind: Kind, common: Common, folder: Path, source: Path) -> int:
    from embrasure import limits
    from embrasure.errors import Refused
    from embrasure.fs import read_file
    from embrasure.trust.client import TrustClient
    from embrasure.trust.listing import TrustFolderSource
    from mirror.config import Paths, load_config
    from mirror.doorway import Held

    paths, config = Paths(folder), load_config(folder, kind)
    client = TrustClient(paths.tuf, read_file(paths.anchor, limit=limits.ROOT_BYTES))
    found = Held(paths, config, client).take(TrustFolderSource(source))
    refused = {role: problem.word for role, problem in found.refused.items()}
    body = {"taken": dict(found.roles), "missing": list(found.missing), "refused": refused}
    lines = [f"{role} v{version} counts now" for role, version in sorted(found.roles.items())]
    lines += [f"{role}: not taken [{word}]" for role, word in sorted(refused.items())]
    lines += [f"missing: {path}" for path in found.missing]
    common.emit(f"embrasure.{kind}.trust/1", body, "\n".join(lines) or "nothing newer")
    return Refused.exit_code if refused else 0
