"""`embrasure pki keyholder` and `pki online`: who and which key signs each role."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from embrasure.errors import Misuse
from pki.options import kdf_option, passphrase_options, sign_option

_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_SCHEMA = "embrasure.trust.drafts/1"

_role = click.option(
    "--role",
    "names",
    multiple=True,
    required=True,
    help="root, targets, revocations, fleet-ENV or ENV-APP (repeat).",
)
_threshold = click.option(
    "--threshold", multiple=True, metavar="ROLE=N", help="How many must sign from now on (repeat)."
)
_proof = click.option(
    "--proof", "proofs", multiple=True, type=_FILE, help="What `keyholder prove` wrote (repeat)."
)
_member = click.option(
    "--member", multiple=True, metavar="GROUP=NAME", help="Operators: put one into a group."
)
_force = click.option(
    "--force", is_flag=True, help="Also when every key of a role is needed from then on."
)


@click.command("add")
@click.argument("files", metavar="FILE.pub...", nargs=-1, required=True, type=_FILE)
@click.argument("folder", metavar="DIR", type=_DIR)
@_role
@_threshold
@_proof
@_member
@_force
@sign_option
@passphrase_options
@common
def pki_keyholder_add(
    common: Common,
    files: tuple[Path, ...],
    folder: Path,
    names: tuple[str, ...],
    threshold: tuple[str, ...],
    proofs: tuple[Path, ...],
    member: tuple[str, ...],
    force: bool,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft more keyholders of roles; each has proved that he holds his key.

    \b
    Examples:
      embrasure pki keyholder add dave.pub trust --role root --role targets --proof dave.proof
      embrasure pki keyholder add eve.pub trust --role prod-shop --proof eve.proof --member sre=eve
    """
    _change(
        common, folder, names, [], files, threshold, proofs, member, sign, passphrase_fd,
        passphrase_file, force=force,
    )  # fmt: skip


@click.command("remove")
@click.argument("persons", metavar="PERSON...", nargs=-1, required=True)
@click.argument("folder", metavar="DIR", type=_DIR)
@_role
@_threshold
@_force
@sign_option
@passphrase_options
@common
def pki_keyholder_remove(
    common: Common,
    persons: tuple[str, ...],
    folder: Path,
    names: tuple[str, ...],
    threshold: tuple[str, ...],
    force: bool,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft roles without these keyholders. A stolen key is also denied: `embrasure trust deny`.

    \b
    Examples:
      embrasure pki keyholder remove carl trust --role root --role targets
      embrasure pki keyholder remove anna trust --role prod-shop --sign alice.key --sign bob.key
    """
    _change(
        common, folder, names, persons, [], threshold, [], [], sign, passphrase_fd,
        passphrase_file, force=force,
    )  # fmt: skip


@click.command("replace")
@click.argument("pairs", metavar="PERSON=FILE.pub...", nargs=-1, required=True)
@click.argument("folder", metavar="DIR", type=_DIR)
@_role
@_threshold
@_proof
@_member
@_force
@sign_option
@passphrase_options
@common
def pki_keyholder_replace(
    common: Common,
    pairs: tuple[str, ...],
    folder: Path,
    names: tuple[str, ...],
    threshold: tuple[str, ...],
    proofs: tuple[Path, ...],
    member: tuple[str, ...],
    force: bool,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft roles in which these persons' keys give way to others, of the same person or a new one.

    Any number at once. A new root needs the signatures of the old and of the new keyholders.

    \b
    Examples:
      embrasure pki keyholder replace carl=carl2.pub trust --role root --proof carl2.proof
      embrasure pki keyholder replace anna=a.pub bea=b.pub trust --role prod-shop \\
          --proof a.proof --proof b.proof
    """
    found: dict[str, Path] = {}
    for text in pairs:
        person, equals, file = text.partition("=")
        if not equals or not file or person in found:
            raise Misuse("replace", expected="PERSON=FILE.pub, each person once", got=text)
        found[person] = Path(file)
    _change(
        common, folder, names, list(found), list(found.values()), threshold, proofs, member, sign,
        passphrase_fd, passphrase_file, force=force,
    )  # fmt: skip


def _change(
    common: Common,
    folder: Path,
    names: tuple[str, ...],
    leave: list[str] | tuple[str, ...],
    join: list[Path] | tuple[Path, ...],
    threshold: tuple[str, ...],
    proofs: list[Path] | tuple[Path, ...],
    member: list[str] | tuple[str, ...],
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
    *,
    force: bool,
) -> None:
    """The seats have changed in drafts, which are signed with the keys at hand and shown."""
    from embrasure.clock import now
    from pki import acting, keyholders, possession, quotas
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    what = keyholders.Seats(
        leave=tuple(leave),
        join=keyholders.read_join(join, names) if join else (),
        proofs=tuple(possession.read_proofs(proofs)),
        thresholds=keyholders.read_thresholds(threshold),
        members=quotas.read_members(member),
    )
    with trust.lock():
        made, told = keyholders.change(trust, names, what, force=force, clock=now)
        for line in told:
            common.say(f"note: {line}")
        found = acting.sign_and_merge(trust, made, sign, source, common=common, clock=now)
    common.emit(_SCHEMA, found, acting.as_text(found, trust))


@click.command("threshold")
@click.argument("texts", metavar="ROLE=N...", nargs=-1, required=True)
@click.argument("folder", metavar="DIR", type=_DIR)
@_force
@sign_option
@passphrase_options
@common
def pki_keyholder_threshold(
    common: Common,
    texts: tuple[str, ...],
    folder: Path,
    force: bool,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft other thresholds: how many keyholders of a role must sign.

    \b
    Examples:
      embrasure pki keyholder threshold root=3 targets=3 trust
      embrasure pki keyholder threshold fleet-prod=2 trust --sign alice.key --sign bob.key
    """
    names = tuple(dict.fromkeys(text.partition("=")[0] for text in texts))
    _change(
        common, folder, names, [], [], texts, [], [], sign, passphrase_fd, passphrase_file,
        force=force,
    )  # fmt: skip


@click.command("prove")
@click.option("--key", required=True, metavar="URI", help="Your new key.")
@click.option("--anchor", required=True, type=_FILE, help="Root version 1 of the fleet.")
@click.option("--out", required=True, type=_FILE, help="The proof, for the team to add you.")
@passphrase_options
@common
def pki_keyholder_prove(
    common: Common,
    key: str,
    anchor: Path,
    out: Path,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Sign a statement that this key is yours, so that you can be added as a keyholder.

    \b
    Examples:
      embrasure pki keyholder prove --key keyfile:dave.key --anchor anchor.json --out dave.proof
      embrasure pki keyholder prove --key dave.key --anchor trust/anchor.json --out dave.proof
    """
    from embrasure import fs, limits
    from embrasure.clock import now
    from embrasure.trust.layout import ROOT
    from pki import possession, signers, store
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    raw = fs.read_file(anchor, limit=limits.ROOT_BYTES)
    root = store.signed_digest(store.parse_metadata(raw, ROOT))
    opened = signers.open_key(signers.as_uri(key), source, root=root)
    header = opened.header
    proof = possession.prove(
        opened.signer, root=root, person=header.label, purpose=header.purpose, at=now()
    )
    fs.create_file(out.parent, out.name, proof, mode=0o644)
    body = {"person": header.label, "keyid": header.keyid, "root": root, "file": str(out)}
    text = f"{header.label} has the key {header.keyid[:8]} of fleet {root[:16]}: {out}"
    common.emit("embrasure.pki.possession/1", body, text)


@click.command("rotate")
@click.argument("names", metavar="ROLE...", nargs=-1, required=True)
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option(
    "--key",
    "outside",
    multiple=True,
    metavar="ROLE=URI",
    help="Its new key lies in a token or key service (repeat).",
)
@kdf_option
@sign_option
@passphrase_options
@common
def pki_online_rotate(
    common: Common,
    names: tuple[str, ...],
    folder: Path,
    outside: tuple[str, ...],
    kdf: str | None,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Make new keys of snapshot, timestamp or gates-ENV, and draft the roles that name them.

    Then: `embrasure gateway init GATEWAY --trust DIR` gives them to the gateway, also while it runs
    (its passphrase must open them), and `embrasure trust submit DIR` puts them to use.

    \b
    Examples:
      embrasure pki online rotate snapshot timestamp trust --sign alice.key --sign bob.key
      embrasure pki online rotate gates-prod trust --key 'gates-prod=hsm:4?label=gateway'
    """
    from embrasure.clock import now
    from pki import acting, online
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    cost = acting.cost_of(kdf, purpose="online")
    with trust.lock():
        records = online.outside_keys(outside, names)
        in_files = [name for name in names if name not in records]
        secret = source.new(f"the new keys of {', '.join(in_files)}") if in_files else b""
        made, files = online.rotate(
            trust, names, secret=secret, cost=cost, clock=now, outside=records
        )
        found = acting.sign_and_merge(trust, made, sign, source, common=common, clock=now)
    told = [acting.as_text(found, trust), *(f"new key: {folder / file}" for file in files)]
    common.emit(_SCHEMA, {**found, "keys": files}, "\n".join(line for line in told if line))
