"""`embrasure pki issuer`: new issuers in the place of old ones, step by step."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import kdf_option, next_key_option, passphrase_options, sign_option
from pki.step_command import (
    Work,
    ca_passphrase_option,
    folder_argument,
    force_option,
    read_report,
    report_option,
    role_argument,
)

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("create")
@role_argument
@folder_argument
@next_key_option
@sign_option
@kdf_option
@ca_passphrase_option
@passphrase_options
@common
def pki_issuer_create(
    common: Common,
    role: str,
    folder: Path,
    uri: str | None,
    sign: tuple[str, ...],
    kdf: str | None,
    ca_passphrase_file: Path | None,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Make the next issuer of a role; every `tls.json` names it, and it issues nothing yet.

    \b
    Examples:
      embrasure pki issuer create gateway trust --sign alice.key --sign bob.key
      embrasure pki issuer create node trust --key 'hsm:12?label=ca' --sign alice.key
    """
    from embrasure.clock import now
    from pki import profiles, rotation

    work = Work(common, folder, fd=passphrase_fd, file=passphrase_file, sign=sign, kdf=kdf,
                 ca_file=ca_passphrase_file)  # fmt: skip
    keys, name = work.keys(offline=False), profiles.check_issuer(role)
    work.run(lambda trust: rotation.create(trust, name, keys, clock=now, uri=uri))


@click.command("activate")
@role_argument
@folder_argument
@report_option
@force_option
@passphrase_options
@common
def pki_issuer_activate(
    common: Common,
    role: str,
    folder: Path,
    report: Path | None,
    force: bool,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """The prepared issuer issues from now on; the former one is retiring.

    \b
    Examples:
      embrasure fleet trust --env prod --json > report.json
      embrasure pki issuer activate gateway trust --report report.json
    """
    from embrasure.clock import now
    from pki import profiles, rotation

    work = Work(common, folder, fd=passphrase_fd, file=passphrase_file)
    said, name = read_report(report), profiles.check_issuer(role)
    work.run(lambda trust: rotation.activate(trust, name, said, force=force, clock=now))


@click.command("retire")
@role_argument
@folder_argument
@force_option
@sign_option
@passphrase_options
@common
def pki_issuer_retire(
    common: Common,
    role: str,
    folder: Path,
    force: bool,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Take the retiring issuer out of every `tls.json`, once its last leaf has ended.

    \b
    Examples:
      embrasure pki issuer retire gateway trust --sign alice.key --sign bob.key
    """
    from embrasure.clock import now
    from pki import profiles, rotation

    work = Work(common, folder, fd=passphrase_fd, file=passphrase_file, sign=sign)
    name = profiles.check_issuer(role)
    work.run(lambda trust: rotation.retire(trust, name, force=force, clock=now))


@click.command("taint")
@role_argument
@folder_argument
@click.option("--number", type=click.IntRange(1, 99), help="Which one; default: the active one.")
@sign_option
@passphrase_options
@common
def pki_issuer_taint(
    common: Common,
    role: str,
    folder: Path,
    number: int | None,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Deny a stolen issuer in every environment; a prepared one takes its place at once.

    \b
    Examples:
      embrasure pki issuer taint gateway trust --sign alice.key --sign bob.key
      embrasure pki issuer taint node trust --number 1 --sign alice.key --sign bob.key
    """
    from embrasure.clock import now
    from pki import profiles, rotation

    work = Work(common, folder, fd=passphrase_fd, file=passphrase_file, sign=sign)
    name = profiles.check_issuer(role)
    which = number or work.trust.authorities().active(role).number
    work.run(lambda trust: rotation.taint(trust, name, which, clock=now))


@click.command("rotate")
@role_argument
@folder_argument
@report_option
@force_option
@sign_option
@kdf_option
@ca_passphrase_option
@passphrase_options
@common
def pki_issuer_rotate(
    common: Common,
    role: str,
    folder: Path,
    report: Path | None,
    force: bool,
    sign: tuple[str, ...],
    kdf: str | None,
    ca_passphrase_file: Path | None,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Take the next step of a rotation: create, activate or retire, whichever is due.

    \b
    Examples:
      embrasure pki issuer rotate gateway trust --sign alice.key --sign bob.key
      embrasure pki issuer rotate gateway trust --report report.json
    """
    from embrasure.clock import now
    from pki import profiles, rotation

    work = Work(common, folder, fd=passphrase_fd, file=passphrase_file, sign=sign, kdf=kdf,
                 ca_file=ca_passphrase_file)  # fmt: skip
    keys, said, name = work.keys(offline=False), read_report(report), profiles.check_issuer(role)
    work.run(lambda trust: rotation.next_step(trust, name, keys, said, force=force, clock=now))


@click.command("status")
@folder_argument
@report_option
@common
def pki_issuer_status(common: Common, folder: Path, report: Path | None) -> None:
    """Show every CA root and issuer: its state, until when, and who lacks the files that name it.

    \b
    Examples:
      embrasure pki issuer status trust
      embrasure pki issuer status trust --report report.json --json
    """
    from pki import holders
    from pki.folder import TrustFolder

    trust, said = TrustFolder.open(folder), read_report(report)
    rows = holders.rows(trust, said)
    common.emit(
        "embrasure.pki.issuers/1",
        {"authorities": [row.as_json() for row in rows], "reported": len(said)},
        "\n".join(row.as_text() for row in rows),
    )
