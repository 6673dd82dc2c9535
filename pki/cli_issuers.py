"""`embrasure pki issuer` and `pki ca`: new CA keys in the place of old ones, step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from embrasure.command import Common, common
from pki.options import kdf_option, passphrase_options, sign_option

if TYPE_CHECKING:
    from pki.bundles import Keys, Step
    from pki.folder import TrustFolder
    from pki.holders import Holder

F = TypeVar("F", bound=Callable[..., object])
_SCHEMA = "embrasure.pki.issuer/1"
_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_ROLES = ("gateway", "admin", "node", "mirror", "operator")
_role = click.argument("role", metavar="ROLE", type=click.Choice(_ROLES))
_folder = click.argument("folder", metavar="DIR", type=_DIR)


def _report_option(function: F) -> F:
    return click.option(
        "--report", type=_FILE, help="Who holds what: the output of `embrasure fleet trust --json`."
    )(function)


def _force_option(function: F) -> F:
    return click.option("--force", is_flag=True, help="Go on without those who are not ready.")(
        function
    )


def _ca_passphrase_option(function: F) -> F:
    return click.option(
        "--ca-passphrase-file", type=_FILE, help="Passphrase of the CA keys, if it is another one."
    )(function)


class _Work:
    """One step of one command: the folder is locked, the drafts signed, the result told."""

    def __init__(
        self,
        common: Common,
        folder: Path,
        *,
        fd: int | None,
        file: Path | None,
        sign: tuple[str, ...] = (),
        kdf: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        from pki.folder import TrustFolder
        from pki.passphrase import passphrase_source

        self.common, self.sign, self.kdf = common, sign, kdf
        self.source = passphrase_source(fd=fd, file=file, no_input=common.no_input)
        self.ca_source = self.source
        if ca_file is not None:
            self.ca_source = passphrase_source(fd=None, file=ca_file, no_input=True)
        self.trust = TrustFolder.open(folder)

    def keys(self, *, offline: bool) -> Keys:
        """Return how a new CA key is protected."""
        from pki import acting
        from pki.bundles import Keys

        cost = acting.cost_of(self.kdf, purpose="security" if offline else "online")
        return Keys(self.ca_source, cost)

    def run(self, step: Callable[[TrustFolder], Step]) -> None:
        """The step is done and told."""
        from embrasure.clock import now
        from pki import acting

        with self.trust.lock():
            done = step(self.trust)
            found = acting.sign_and_merge(
                self.trust, done.drafts, self.sign, self.source, common=self.common, clock=now
            )
        one = done.authority
        text = [f"{one.stem}-ca: {one.state}"]
        text += [f"not ready: {item.as_text()}" for item in done.lacking]
        text += [acting.as_text(found, self.trust)] if done.drafts else []
        if one.state == "active" and one.name in ("gateway", "admin", "node", "mirror"):
            text.append(f"next: embrasure gateway init GATEWAY --trust {self.trust.path}, restart")
        data = {
            **found,
            "authority": one.stem,
            "state": one.state,
            "lacking": [item.as_text() for item in done.lacking],
        }
        self.common.emit(_SCHEMA, data, "\n".join(line for line in text if line))


def _read(report: Path | None) -> list[Holder]:
    from pki import holders

    return holders.read_report(report) if report is not None else []


@click.command("create")
@_role
@_folder
@sign_option
@kdf_option
@_ca_passphrase_option
@passphrase_options
@common
def pki_issuer_create(
    common: Common,
    role: str,
    folder: Path,
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
    """
    from embrasure.clock import now
    from pki import profiles, rotation

    work = _Work(common, folder, fd=passphrase_fd, file=passphrase_file, sign=sign, kdf=kdf,
                 ca_file=ca_passphrase_file)  # fmt: skip
    keys, name = work.keys(offline=False), profiles.check_issuer(role)
    work.run(lambda trust: rotation.create(trust, name, keys, clock=now))


@click.command("activate")
@_role
@_folder
@_report_option
@_force_option
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

    work = _Work(common, folder, fd=passphrase_fd, file=passphrase_file)
    said, name = _read(report), profiles.check_issuer(role)
    work.run(lambda trust: rotation.activate(trust, name, said, force=force, clock=now))


@click.command("retire")
@_role
@_folder
@_force_option
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

    work = _Work(common, folder, fd=passphrase_fd, file=passphrase_file, sign=sign)
    name = profiles.check_issuer(role)
    work.run(lambda trust: rotation.retire(trust, name, force=force, clock=now))


@click.command("taint")
@_role
@_folder
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

    work = _Work(common, folder, fd=passphrase_fd, file=passphrase_file, sign=sign)
    name = profiles.check_issuer(role)
    which = number or work.trust.authorities().active(role).number
    work.run(lambda trust: rotation.taint(trust, name, which, clock=now))


@click.command("rotate")
@_role
@_folder
@_report_option
@_force_option
@sign_option
@kdf_option
@_ca_passphrase_option
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

    work = _Work(common, folder, fd=passphrase_fd, file=passphrase_file, sign=sign, kdf=kdf,
                 ca_file=ca_passphrase_file)  # fmt: skip
    keys, said, name = work.keys(offline=False), _read(report), profiles.check_issuer(role)
    work.run(lambda trust: rotation.next_step(trust, name, keys, said, force=force, clock=now))


@click.command("status")
@_folder
@_report_option
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

    trust, said = TrustFolder.open(folder), _read(report)
    rows = holders.rows(trust, said)
    common.emit(
        "embrasure.pki.issuers/1",
        {"authorities": [row.as_json() for row in rows], "reported": len(said)},
        "\n".join(row.as_text() for row in rows),
    )


@click.command("rotate")
@_folder
@click.option(
    "--root-alg",
    type=click.Choice(["p256", "p384", "ml-dsa-65"]),
    default="p256",
    show_default=True,
    help="Kind of the new CA root's key.",
)
@sign_option
@kdf_option
@passphrase_options
@common
def pki_ca_rotate(
    common: Common,
    folder: Path,
    root_alg: str,
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
    """
    from embrasure.clock import now
    from pki import root_rotation
    from pki.ca_book import ROOT_ALGORITHMS

    work = _Work(common, folder, fd=passphrase_fd, file=passphrase_file, sign=sign, kdf=kdf)
    keys, scheme = work.keys(offline=True), ROOT_ALGORITHMS[root_alg]
    work.run(lambda trust: root_rotation.rotate_root(trust, scheme, keys, clock=now))


@click.command("retire")
@_folder
@_report_option
@_force_option
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

    work = _Work(common, folder, fd=passphrase_fd, file=passphrase_file, sign=sign)
    said = _read(report)
    work.run(lambda trust: root_rotation.retire_root(trust, said, force=force, clock=now))
