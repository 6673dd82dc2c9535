"""`embrasure pki ca`: a new CA root beside the old one, then in its place."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import kdf_option, next_key_option, passphrase_options, sign_option
from pki.step_command import Work, folder_argument, force_option, read_report, report_option


@click.command("rotate")
@folder_argument
@click.option(
    "--root-alg",
    type=click.Choice(["p256", "p384", "ml-dsa-65"]),
    default="p256",
    show_default=True,
    help="Kind of the new CA root's key.",
)
@next_key_option
@sign_option
@kdf_option
@passphrase_options
@common
def pki_ca_rotate(
    common: Common,
    folder: Path,
    root_alg: str,
    uri: str | None,
    sign: tuple[str, ...],
    kdf: str | None,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Make a new CA root that certifies every issuer in use too; `tls.json` names both roots.

    \b
    Examples:
      embrasure pki ca rotate trust --sign alice.key --sign bob.key
      embrasure pki ca rotate trust --root-alg ml-dsa-65 --sign alice.key --sign bob.key
      embrasure pki ca rotate trust --key 'hsm:21?label=ca' --sign alice.key --sign bob.key
    """
    from embrasure.clock import now
    from pki import root_rotation
    from pki.ca_book import ROOT_ALGORITHMS

    work = Work(common, folder, fd=passphrase_fd, file=passphrase_file, sign=sign, kdf=kdf)
    keys, scheme = work.keys(offline=True), ROOT_ALGORITHMS[root_alg]
    work.run(lambda trust: root_rotation.rotate_root(trust, scheme, keys, clock=now, uri=uri))


@click.command("retire")
@folder_argument
@report_option
@force_option
@sign_option
@passphrase_options
@common
def pki_ca_retire(
    common: Common,
    folder: Path,
    report: Path | None,
    force: bool,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Take the old CA root out of every `tls.json`, once everybody holds the new one.

    \b
    Examples:
      embrasure pki ca retire trust --report report.json --sign alice.key --sign bob.key
    """
    from embrasure.clock import now
    from pki import root_rotation

    work = Work(common, folder, fd=passphrase_fd, file=passphrase_file, sign=sign)
    said = read_report(report)
    work.run(lambda trust: root_rotation.retire_root(trust, said, force=force, clock=now))
