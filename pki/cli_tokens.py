"""`embrasure keys export|hsm`: keys that lie in tokens and key services."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import passphrase_options

_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_PURPOSES = click.Choice(["security", "operator", "online", "ca", "tls"])


@click.command("export")
@click.argument("uri", metavar="URI")
@click.argument("name")
@click.option("--out", type=_DIR, default=Path(), help="Folder for NAME.pub.")
@click.option(
    "--purpose", type=_PURPOSES, required=True, help="The one family of roles it will sign for."
)
@click.option("--anchor", type=_FILE, help="Root version 1 of the only fleet it serves.")
@passphrase_options
@common
def keys_export(
    common: Common,
    uri: str,
    name: str,
    out: Path,
    purpose: str,
    anchor: Path | None,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Write NAME.pub of a key in a token or key service, and remember whose key it is.

    The record lies in $EMBRASURE_KEYS, else ~/.local/state/embrasure/keys. Without one a key signs
    nothing: the record says for which purpose and which fleet it may. A passphrase is the PIN.

    \b
    Examples:
      embrasure keys export 'hsm:2?label=YubiKey+PIV+%2315835999' alice --purpose security
      embrasure keys export awskms:alias/snapshot snapshot --purpose online --out keys
    """
    from pki import outsidekeys
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    found = outsidekeys.export(uri, name, out, purpose=purpose, anchor=anchor, passphrase=source)
    common.emit("embrasure.keys.outside/1", found.as_json(), found.as_text())


@click.command("list")
@common
def keys_list(common: Common) -> None:
    """List the keys in tokens and key services that this machine may sign with, and for what.

    They are records in $EMBRASURE_KEYS, else ~/.local/state/embrasure/keys; key files are not among
    them.

    \b
    Examples:
      embrasure keys list
      embrasure keys list --json
    """
    from pki import outsidekeys

    found = outsidekeys.known()
    common.emit("embrasure.keys.list/1", {"keys": found}, outsidekeys.known_text(found))


@click.command("generate")
@click.argument("name")
@click.option("--token", required=True, metavar="LABEL", help="The token's label.")
@click.option("--id", "number", type=click.IntRange(1, 2**31 - 1), default=2, help="Of the key.")
@click.option("--module", default="", metavar="FILE", help="The PKCS#11 library.")
@click.option("--out", type=_DIR, default=Path(), help="Folder for NAME.pub.")
@click.option(
    "--purpose", type=_PURPOSES, required=True, help="The one family of roles it will sign for."
)
@click.option("--scheme", type=click.Choice(["ecdsa-p256", "ecdsa-p384"]), default="ecdsa-p256")
@click.option("--anchor", type=_FILE, help="Root version 1 of the only fleet it serves.")
@passphrase_options
@common
def keys_hsm_generate(
    common: Common,
    name: str,
    token: str,
    number: int,
    module: str,
    out: Path,
    purpose: str,
    scheme: str,
    anchor: Path | None,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Make a key inside a PKCS#11 token, which it can never leave, and write NAME.pub.

    The library is --module, else $EMBRASURE_PKCS11_MODULE. A passphrase is the token's PIN.

    \b
    Examples:
      embrasure keys hsm generate alice --token root-1 --purpose security
      embrasure keys hsm generate anna --token ops --id 3 --purpose operator --out keys
    """
    from pki import outsidekeys
    from pki.keyuri import TokenUri
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    found = outsidekeys.generate(
        name,
        TokenUri(number, token, module),
        out,
        purpose=purpose,
        scheme=scheme,
        anchor=anchor,
        passphrase=source,
    )
    common.emit("embrasure.keys.outside/1", found.as_json(), found.as_text())


@click.command("list")
@click.option("--module", default="", metavar="FILE", help="The PKCS#11 library.")
@common
def keys_hsm_list(common: Common, module: str) -> None:
    """List the tokens that are plugged in, and the keys that they show without a PIN.

    \b
    Examples:
      embrasure keys hsm list
      embrasure keys hsm list --module /usr/lib/x86_64-linux-gnu/libykcs11.so --json
    """
    from pki import outsidekeys
    from pki.keyuri import TokenUri

    found = outsidekeys.list_tokens(TokenUri(module=module))
    common.emit("embrasure.keys.tokens/1", {"tokens": found}, outsidekeys.tokens_text(found))
