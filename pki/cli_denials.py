"""`embrasure trust revoke` and `trust deny`: stop things at once, or for good."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import passphrase_options, sign_option

_DIR = click.Path(path_type=Path, file_okay=False)
_SCHEMA = "embrasure.trust.drafts/1"


@click.command("revoke")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--env", required=True, help="The environment.")
@click.option("--plan", "plans", multiple=True, metavar="SHA256")
@click.option("--manifest", "manifests", multiple=True, metavar="SHA256")
@click.option("--key", "keys", multiple=True, metavar="KEYID")
@click.option("--node", "nodes", multiple=True, metavar="NODE")
@click.option("--gateway-cert", "gateway_certs", multiple=True, metavar="FILE|SHA256")
@click.option("--reason", default="", help="Shown to people; at most 200 characters.")
@sign_option
@passphrase_options
@common
def trust_revoke(
    common: Common,
    folder: Path,
    env: str,
    plans: tuple[str, ...],
    manifests: tuple[str, ...],
    keys: tuple[str, ...],
    nodes: tuple[str, ...],
    gateway_certs: tuple[str, ...],
    reason: str,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Stop plans, keys, nodes, gateway certificates: one on-call signature, and it only stops.

    \b
    Examples:
      embrasure trust revoke trust --env prod --plan SHA256 --reason "bad build" --sign alice.key
      embrasure trust revoke trust --env prod --node n-... --sign alice.key
      embrasure trust revoke trust --env prod --gateway-cert stolen.crt --sign alice.key
    """
    from embrasure.clock import now
    from pki import acting, denials
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    what = denials.denial(
        plans=plans, manifests=manifests, keys=keys, nodes=nodes, gateway_certs=gateway_certs
    )
    with trust.lock():
        made = denials.revoke(trust, env, what, reason=reason, clock=now)
        found = acting.sign_and_merge(trust, made, sign, source, common=common, clock=now)
    common.emit(_SCHEMA, found, acting.as_text(found, trust))


@click.command("deny")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--env", required=True, help="The environment.")
@click.option("--plan", "plans", multiple=True, metavar="SHA256")
@click.option("--manifest", "manifests", multiple=True, metavar="SHA256")
@click.option("--key", "keys", multiple=True, metavar="KEYID")
@click.option("--node", "nodes", multiple=True, metavar="NODE")
@click.option("--gateway-cert", "gateway_certs", multiple=True, metavar="FILE|SHA256")
@click.option("--issuer", "issuers", multiple=True, metavar="FILE|SHA256")
@click.option("--lift", is_flag=True, help="Take these entries out instead.")
@sign_option
@passphrase_options
@common
def trust_deny(
    common: Common,
    folder: Path,
    env: str,
    plans: tuple[str, ...],
    manifests: tuple[str, ...],
    keys: tuple[str, ...],
    nodes: tuple[str, ...],
    gateway_certs: tuple[str, ...],
    issuers: tuple[str, ...],
    lift: bool,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft lasting denials in the policy; they hold until a later policy leaves them out.

    \b
    Examples:
      embrasure trust deny trust --env prod --key KEYID --sign alice.key --sign bob.key
      embrasure trust deny trust --env prod --key KEYID --lift
      embrasure trust deny trust --env prod --issuer trust/ca/gateway.crt --sign alice.key
    """
    from embrasure.clock import now
    from pki import acting, denials
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    what = denials.denial(
        plans=plans,
        manifests=manifests,
        keys=keys,
        nodes=nodes,
        gateway_certs=gateway_certs,
        issuers=issuers,
    )
    with trust.lock():
        made = denials.deny(trust, env, what, lift=lift, clock=now)
        found = acting.sign_and_merge(trust, made, sign, source, common=common, clock=now)
    common.emit(_SCHEMA, found, acting.as_text(found, trust))
