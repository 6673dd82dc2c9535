"""`embrasure trust`: who may say what. Drafts, signatures, what is in force."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.cli_denials import trust_deny as trust_deny
from pki.cli_denials import trust_revoke as trust_revoke
from pki.options import kdf_option, passphrase_options, sign_option

_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_SCHEMA = "embrasure.trust.drafts/1"


@click.command("add")
@click.argument("env")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--gateway", "gateways", multiple=True, default=("g1",), help="Gateway ids.")
@click.option("--shards", type=click.Choice(["1", "16", "64", "256"]), default="1")
@click.option(
    "--min-isolation",
    type=click.IntRange(0, 3),
    default=0,
    help="Sandbox level below which a node's receipt is no evidence.",
)
@kdf_option
@sign_option
@passphrase_options
@common
def trust_env_add(
    common: Common,
    env: str,
    folder: Path,
    gateways: tuple[str, ...],
    shards: str,
    min_isolation: int,
    kdf: str | None,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft a new environment: roles, first policy, TLS trust bundle, empty directory.

    \b
    Examples:
      embrasure trust env add prod trust
      embrasure trust env add prod trust --sign alice.key --sign bob.key
    """
    from embrasure.clock import now
    from pki import acting, environment
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    with trust.lock():
        made = environment.add_environment(
            trust,
            env,
            gateways=gateways,
            shards=int(shards),
            min_isolation=min_isolation,
            source=source,
            cost=acting.cost_of(kdf, purpose="online"),
            clock=now,
        )
        found = acting.sign_and_merge(trust, made, sign, source, common=common, clock=now)
    common.emit(_SCHEMA, found, acting.as_text(found, trust))


@click.command("sign")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--role", help="Only this role's draft.")
@click.option("--key", required=True, metavar="URI", help="Your key, such as keyfile:alice.key.")
@click.option(
    "--confirm-digest",
    "confirmed",
    multiple=True,
    metavar="SHA256",
    help="The full digest of a draft that you have read (repeat).",
)
@passphrase_options
@common
def trust_sign(
    common: Common,
    folder: Path,
    role: str | None,
    key: str,
    confirmed: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Show the whole change of each draft that your key counts for, then sign it.

    DIR is the trust folder, its drafts folder, or one draft: whatever was carried here.

    \b
    Examples:
      embrasure trust sign trust --key keyfile:alice.key
      embrasure trust sign /media/usb/drafts --role fleet-prod --key alice.key
    """
    from embrasure.clock import now
    from pki import acting, signround
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    with signround.record(folder):
        found = signround.sign_drafts(
            folder, role, key, confirmed=confirmed, source=source, common=common, clock=now
        )
    body: dict[str, object] = {"signed": found}
    text = "\n".join(f"signed {one['role']} v{one['version']}: {one['file']}" for one in found)
    common.emit("embrasure.trust.sign/1", body, text or acting.NOTHING)


@click.command("merge")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--role", help="Only this role's draft; an error when it is not ready.")
@click.option("--from", "carried", type=_DIR, multiple=True, help="Folder with signatures.")
@common
def trust_merge(common: Common, folder: Path, role: str | None, carried: tuple[Path, ...]) -> None:
    """Put in force every draft that enough keyholders have signed.

    \b
    Examples:
      embrasure trust merge trust
      embrasure trust merge trust --role fleet-prod --from /media/usb/drafts
    """
    from embrasure.clock import now
    from pki import acting, signing, signround
    from pki.folder import TrustFolder

    trust = TrustFolder.open(folder)
    with trust.lock():
        for source in carried:
            signround.collect(trust, source)
        if role is not None:
            draft = signing.must_draft(trust, role)
            signing.merge(trust, draft, at=now())
            merged, waiting = [f"{role} v{draft.version}"], list[str]()
        else:
            merged, waiting = signing.merge_ready(trust, at=now())
    found = acting.report(trust, merged, waiting)
    common.emit(_SCHEMA, found, acting.as_text(found, trust))


@click.command("discard")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--role", required=True, help="The role whose draft goes.")
@common
def trust_discard(common: Common, folder: Path, role: str) -> None:
    """Drop a draft and its signatures; what is in force stays.

    \b
    Examples:
      embrasure trust discard trust --role fleet-prod
      embrasure trust discard trust --role targets --json
    """
    from pki import acting, desk, drafts
    from pki.folder import TrustFolder

    trust = TrustFolder.open(folder)
    with trust.lock():
        drafts.discard(trust.draft_folder(role))
        desk.refresh_bases(trust)
    found = acting.report(trust, [], [])
    common.emit(_SCHEMA, found, acting.as_text(found, trust))


@click.command("renew")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--role", "names", multiple=True, required=True, help="Role (repeat).")
@sign_option
@passphrase_options
@common
def trust_renew(
    common: Common,
    folder: Path,
    names: tuple[str, ...],
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft the same content with a new expiry.

    \b
    Examples:
      embrasure trust renew trust --role revocations --sign alice.key
      embrasure trust renew trust --role root --role targets
    """
    from embrasure.clock import now
    from pki import acting, denials
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    with trust.lock():
        made = [draft for name in names for draft in denials.renew(trust, name, clock=now)]
        found = acting.sign_and_merge(trust, made, sign, source, common=common, clock=now)
    common.emit(_SCHEMA, found, acting.as_text(found, trust))


@click.command("show")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--role", help="Only this role, with its draft's whole change.")
@common
def trust_show(common: Common, folder: Path, role: str | None) -> None:
    """Show roles in force (thresholds, persons, expiries) and the drafts that wait.

    \b
    Examples:
      embrasure trust show trust
      embrasure trust show trust --role targets
    """
    from embrasure.clock import now
    from pki import overview
    from pki.folder import TrustFolder

    body, text = overview.show(TrustFolder.open(folder), role=role, at=now())
    common.emit("embrasure.trust.show/1", body, text)


@click.command("verify")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--root", "pinned", type=_FILE, help="Root version 1 from elsewhere, to compare.")
@common
def trust_verify(common: Common, folder: Path, pinned: Path | None) -> None:
    """Verify every role in force from root version 1 on; fails on an expired one.

    \b
    Examples:
      embrasure trust verify trust
      embrasure trust verify trust --root /etc/embrasure/anchor.json
    """
    from embrasure.clock import now
    from pki import overview
    from pki.folder import TrustFolder

    body, text = overview.verify_all(TrustFolder.open(folder), pinned=pinned, at=now())
    common.emit("embrasure.trust.verify/1", body, text)
