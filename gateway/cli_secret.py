"""`embrasure secret seal|rewrap|list`: secrets for exactly the nodes that verified files name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embrasure.command import Common, common, screen
from pki.options import passphrase_options

if TYPE_CHECKING:
    from embrasure.secret.sealed import Sealed
    from pki.recipients import Recipients

_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_TRUST = "Read the directory from this trust folder, not by the operator's context."


@click.command("seal")
@click.argument("name")
@click.option("--env", required=True, help="The environment.")
@click.option("--app", required=True, help="The app whose nodes may open it.")
@click.option("--version", type=click.IntRange(1, 2**53 - 1), required=True, help="Of the value.")
@click.option("--from", "file", type=_FILE, help="The value: a file that only you may read.")
@click.option("--fd", type=click.IntRange(0, 1023), help="The value, from this descriptor.")
@click.option("--out", type=_FILE, help="The sealed file; default NAME-vVERSION.sealed.json.")
@click.option("--trust", type=_DIR, help=_TRUST)
@common
def secret_seal(
    common: Common,
    name: str,
    env: str,
    app: str,
    version: int,
    file: Path | None,
    fd: int | None,
    out: Path | None,
    trust: Path | None,
) -> None:
    """Seal a value, read from standard input, to every node that may run the app.

    Recipients are the active, undenied nodes of the app's group in the verified directory, and the
    recovery recipient. They are shown with their fingerprints first; no option names another key.

    \b
    Examples:
      embrasure secret seal db --env prod --app shop --version 3 < db.txt
      embrasure secret seal db --env prod --app shop --version 3 --from db.txt --trust trust
    """
    from pki import sealing, secretfiles

    to = _recipients(common, trust, env, app)
    _show(f"secret {name} v{version} of {env}-{app}, for {len(to.keys)} recipients:", to)
    plain = secretfiles.read_plaintext(file=file, fd=fd)
    raw = sealing.seal(plain, name=name, version=version, to=to)
    target = out or Path(secretfiles.file_name(name, version))
    secretfiles.write_sealed(target, raw)
    (sealed,) = secretfiles.read_sealed([target])
    body = {
        "name": name, "version": version, "env": env, "app": app, "file": str(target),
        "sha256": sealed.sha256, "recipients": to.as_json(),
    }  # fmt: skip
    text = f"{target}: {sealed.label}, {len(raw)} bytes, sha256:{sealed.sha256}"
    text += f"\nnext: embrasure release propose BUNDLE --plan PLAN --secret {target}"
    common.emit("embrasure.secret.seal/1", body, text)


@click.command("rewrap")
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--recovery-key", "key", type=_FILE, required=True, help="The recovery key file.")
@click.option("--out", type=_DIR, required=True, help="Folder for the new files.")
@click.option("--trust", type=_DIR, help=_TRUST)
@passphrase_options
@common
def secret_rewrap(
    common: Common,
    files: tuple[Path, ...],
    key: Path,
    out: Path,
    trust: Path | None,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Seal files again to the nodes of today, with the recovery key: after a node was replaced.

    The sealed value stays, byte for byte, and no plaintext is written. Whoever lost a stanza has
    seen the value: the last lines name what to change at its source.

    \b
    Examples:
      embrasure secret rewrap db-v3.sealed.json --recovery-key recovery.key --out new --trust trust
    """
    from embrasure.fs import Folder
    from pki import recoverykey, sealing, secretfiles
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    found = secretfiles.read_sealed(files)
    to = {(one.env, one.app): _recipients(common, trust, one.env, one.app) for one in found}
    for (env, app), named in to.items():
        _show(f"{env}-{app}, for {len(named.keys)} recipients:", named)
    opened = recoverykey.open_file(key, source, root=found[0].root)
    Folder.open(out, create=True, mode=0o700).close()
    rows = []
    for sealed in found:
        raw = sealing.rewrap(sealed, key=opened, to=to[sealed.env, sealed.app])
        file = out / secretfiles.file_name(sealed.name, sealed.version)
        secretfiles.write_sealed(file, raw)
        (again,) = secretfiles.read_sealed([file])
        rows.append({**_row(sealed, to[sealed.env, sealed.app]), "file": str(file),
                     "sha256": again.sha256})  # fmt: skip
    rotate = sorted(one.name for one in found if to[one.env, one.app].lost(one))
    lines = [f"{row['file']}: added {_words(row['missing'])}, dropped {_words(row['extra'])}"
             for row in rows]  # fmt: skip
    if rotate:
        count = "this secret" if len(rotate) == 1 else f"these {len(rotate)} secrets"
        lines.append(f"rotate {count} at their source: {', '.join(rotate)}")
    common.emit("embrasure.secret.rewrap/1", {"secrets": rows, "rotate": rotate}, "\n".join(lines))


@click.command("list")
@click.argument("files", nargs=-1, type=_FILE)
@click.option("--env", default="", help="The environment, for what runs now.")
@click.option("--app", default="", help="The app, for what runs now.")
@click.option("--trust", type=_DIR, help=_TRUST)
@common
def secret_list(
    common: Common, files: tuple[Path, ...], env: str, app: str, trust: Path | None
) -> None:
    """List secrets: version, who can open them, and who lacks a stanza or has one too many.

    Of sealed files, or of the release that runs (--env and --app).

    \b
    Examples:
      embrasure secret list db-v3.sealed.json --trust trust
      embrasure secret list --env prod --app shop --json
    """
    from pki import secretfiles

    found = secretfiles.read_sealed(files) if files else _running(common, env, app)
    to = {(one.env, one.app): _recipients(common, trust, one.env, one.app) for one in found}
    rows = [_row(one, to[one.env, one.app]) for one in found]
    lines = [
        f"{row['name']} v{row['version']} of {row['env']}-{row['app']}: {row['recipients']} "
        f"recipients, lacking {_words(row['missing'])}, too many {_words(row['extra'])}"
        for row in rows
    ]
    common.emit("embrasure.secret.list/1", {"secrets": rows}, "\n".join(lines) or "no secrets")


def _recipients(common: Common, folder: Path | None, env: str, app: str) -> Recipients:
    """Return who may open secrets of the app, out of verified files and nothing else."""
    if folder is not None:
        from embrasure.clock import now
        from pki.folder import TrustFolder
        from pki.recipients import from_folder

        trust = TrustFolder.open(folder)
        with trust.lock():
            return from_folder(trust, env, app, at=now())
    from gateway.client import AdminClient
    from gateway.recipients import from_gateway

    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        return from_gateway(client, client.grounds(env, app))


def _running(common: Common, env: str, app: str) -> Sequence[Sealed]:
    from embrasure.errors import Misuse
    from gateway.client import AdminClient
    from gateway.recipients import running_secrets

    if not env or not app:
        raise Misuse("secret list", expected="sealed files, or --env and --app", got="neither")
    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        return [sealed for sealed, _ in running_secrets(client, client.grounds(env, app)).values()]


def _show(title: str, to: Recipients) -> None:
    # On stderr whatever the flags are: who seals must have seen to whom.
    click.echo(screen("\n".join([title, *(f"  {line}" for line in to.lines())])), err=True)


def _row(sealed: Sealed, to: Recipients) -> dict[str, object]:
    missing, extra = to.differences(sealed)
    return {
        "name": sealed.name, "version": sealed.version, "env": sealed.env, "app": sealed.app,
        "sha256": sealed.sha256, "recipients": len(sealed.stanzas), "missing": missing,
        "extra": extra,
    }  # fmt: skip


def _words(names: object) -> str:
    return ", ".join(names) if isinstance(names, list) and names else "nobody"
