"""What the verbs of `pki issuer` and `pki ca` share: options, and one step with its signatures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from embrasure.command import Common

if TYPE_CHECKING:
    from pki.bundles import Keys, Step
    from pki.folder import TrustFolder
    from pki.holders import Holder

F = TypeVar("F", bound=Callable[..., object])
_SCHEMA = "embrasure.pki.issuer/1"
_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_ROLES = ("gateway", "admin", "node", "mirror", "operator")
role_argument = click.argument("role", metavar="ROLE", type=click.Choice(_ROLES))
folder_argument = click.argument("folder", metavar="DIR", type=_DIR)


def report_option(function: F) -> F:
    """The command takes `report`: who holds what."""
    return click.option(
        "--report", type=_FILE, help="Who holds what: the output of `embrasure fleet trust --json`."
    )(function)


def force_option(function: F) -> F:
    """The command takes `force`."""
    return click.option("--force", is_flag=True, help="Go on without those who are not ready.")(
        function
    )


def ca_passphrase_option(function: F) -> F:
    """The command takes the passphrase of the CA keys, if it is another one."""
    return click.option(
        "--ca-passphrase-file", type=_FILE, help="Passphrase of the CA keys, if it is another one."
    )(function)


class Work:
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


def read_report(report: Path | None) -> list[Holder]:
    """Return the rows of the report that the command line names; none without one."""
    from pki import holders

    return holders.read_report(report) if report is not None else []
