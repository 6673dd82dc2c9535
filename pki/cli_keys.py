"""`embrasure keys`: make, show and re-protect key files."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import kdf_option, passphrase_options

_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("generate")
@click.argument("name")
@click.option("--out", type=_DIR, default=Path(), help="Folder for NAME.key and NAME.pub.")
@click.option(
    "--purpose",
    type=click.Choice(["security", "operator", "online", "ca"]),
    default="operator",
    help="The one family of roles it will sign for.",
)
@click.option(
    "--scheme",
    type=click.Choice(["ed25519", "ecdsa-p256", "ecdsa-p384", "ml-dsa-65"]),
    default="ed25519",
    help="Kind of key; a role may list keys of all kinds.",
)
@click.option("--anchor", type=_FILE, help="Root version 1 of the only fleet it serves.")
@kdf_option
@passphrase_options
@common
def keys_generate(
    common: Common,
    name: str,
    out: Path,
    purpose: str,
    scheme: str,
    anchor: Path | None,
    kdf: str | None,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Make a key file NAME.key, protected by a passphrase, and its public half NAME.pub.

    \b
    Examples:
      embrasure keys generate anna --purpose operator --out ~/keys
      embrasure keys generate alice --purpose security --scheme ml-dsa-65
    """
    from pki import handkeys
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    found = handkeys.generate(
        name, out, purpose=purpose, scheme=scheme, anchor=anchor, kdf=kdf, source=source
    )
    common.emit("embrasure.keys.key/1", found.as_json(), found.as_text())


@click.command("show")
@click.argument("file", type=_FILE)
@common
def keys_show(common: Common, file: Path) -> None:
    """Show the public half of a key file or of a .pub file; needs no passphrase.

    \b
    Examples:
      embrasure keys show alice.key
      embrasure keys show alice.pub --json
    """
    from pki import handkeys

    found = handkeys.show(file)
    common.emit("embrasure.keys.key/1", found.as_json(), found.as_text())


@click.command("passphrase")
@click.argument("file", type=_FILE)
@click.option("--new-passphrase-file", type=_FILE, help="Read the new one from this file.")
@click.option("--new-passphrase-fd", type=click.IntRange(0, 1023), help="Or from here.")
@passphrase_options
@common
def keys_passphrase(
    common: Common,
    file: Path,
    new_passphrase_file: Path | None,
    new_passphrase_fd: int | None,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Change the passphrase of a key file. Copies under the old one stay readable by it.

    \b
    Examples:
      embrasure keys passphrase alice.key
      embrasure keys passphrase alice.key --passphrase-file old --new-passphrase-file new
    """
    from pki import handkeys
    from pki.passphrase import passphrase_source

    old = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    new = passphrase_source(
        fd=new_passphrase_fd, file=new_passphrase_file, no_input=common.no_input
    )
    found = handkeys.change(file, old=old, new=new)
    common.emit("embrasure.keys.key/1", found.as_json(), "")
    common.say(f"{file} has a new passphrase")
