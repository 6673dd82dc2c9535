"""`embrasure secret open` and `secret recovery`: what needs the offline recovery key."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import kdf_option, passphrase_options, sign_option

_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("open")
@click.argument("file", type=_FILE)
@click.option("--recovery-key", "key", type=_FILE, required=True, help="The recovery key file.")
@click.option("--out", type=_FILE, required=True, help="New file, readable by you alone.")
@passphrase_options
@common
def secret_open(
    common: Common,
    file: Path,
    key: Path,
    out: Path,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Open a sealed file with the recovery key; the plaintext goes into a new private file.

    \b
    Examples:
      embrasure secret open db-v3.sealed.json --recovery-key recovery.key --out db.txt
    """
    from pki import recoverykey, sealing, secretfiles
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    (sealed,) = secretfiles.read_sealed([file])
    opened = recoverykey.open_file(key, source, root=sealed.root)
    secretfiles.write_plaintext(out, sealing.open_with_recovery(sealed, key=opened))
    body = {"name": sealed.name, "version": sealed.version, "env": sealed.env, "app": sealed.app}
    common.emit("embrasure.secret.open/1", {**body, "file": str(out)}, f"{sealed.label}: {out}")


@click.command("generate")
@click.argument("file", type=_FILE)
@click.option("--trust", "folder", type=_DIR, required=True, help="Trust folder of its one fleet.")
@kdf_option
@passphrase_options
@common
def secret_recovery_generate(
    common: Common,
    file: Path,
    folder: Path,
    kdf: str | None,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Make the recovery key FILE, under a passphrase, and its public half FILE.pub.

    It opens every secret of an environment that adopts it: it belongs on an offline medium.

    \b
    Examples:
      embrasure secret recovery generate recovery.key --trust trust
    """
    from embrasure.fingerprint import groups, words
    from pki import acting, recoverykey
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    cost = acting.cost_of(kdf, purpose="security")
    passphrase = source.new("the recovery key")
    half = recoverykey.generate(file, passphrase, root=trust.root_id, cost=cost)
    key = half.as_key(epoch=1)
    body = {"file": str(file), "public": f"{file}.pub", "suite": key.suite}
    text = (
        f"recovery key {key.suite}: {file}, public half {file}.pub\n"
        f"  fingerprint  {groups(key.fingerprint)}\n  in words     {words(key.fingerprint)}\n"
        f"next: embrasure secret recovery adopt {folder} --env ENV --public {file}.pub"
    )
    common.emit("embrasure.secret.recovery/1", {**body, "fingerprint": key.fingerprint}, text)


@click.command("adopt")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--env", required=True, help="The environment.")
@click.option("--public", type=_FILE, required=True, help="The public half of the recovery key.")
@sign_option
@passphrase_options
@common
def secret_recovery_adopt(
    common: Common,
    folder: Path,
    env: str,
    public: Path,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft `fleet-ENV` with this recovery recipient: the keyholders put it in force.

    Secrets that were sealed before keep their old recovery stanza until they are rewrapped.

    \b
    Examples:
      embrasure secret recovery adopt trust --env prod --public recovery.key.pub
      embrasure secret recovery adopt trust --env prod --public recovery.key.pub \\
          --sign alice.key --sign bob.key
    """
    from embrasure.clock import now
    from pki import acting, recoverykey
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust, half = TrustFolder.open(folder), recoverykey.read_public(public)
    with trust.lock():
        made = recoverykey.adopt(trust, env, half, clock=now)
        found = acting.sign_and_merge(trust, made, sign, source, common=common, clock=now)
    common.emit("embrasure.trust.drafts/1", found, acting.as_text(found, trust))
