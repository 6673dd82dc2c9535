"""`embrasure trust revoke` and `trust deny`: stop things at once, or for good."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.cli_deliver import deliver_to, direct_options
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
@direct_options
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
    direct: tuple[str, ...],
    identity: Path | None,
    pins: tuple[Path, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> int:
    """Stop plans, keys, nodes, gateway certificates: one on-call signature, and it only stops.

    \b
    Examples:
      embrasure trust revoke trust --env prod --plan SHA256 --reason "bad build" --sign alice.key
      embrasure trust revoke trust --env prod --node n-... --sign alice.key
      embrasure trust revoke trust --env prod --gateway-cert stolen.crt --sign alice.key \\
        --direct mirror/m1@10.0.0.5:7446 --direct node/n-...@10.0.1.7:7446 --identity people/anna
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
    return tell(common, found, acting.as_text(found, trust), direct, folder, identity, pins)


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
@direct_options
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
    direct: tuple[str, ...],
    identity: Path | None,
    pins: tuple[Path, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> int:
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
    return tell(common, found, acting.as_text(found, trust), direct, folder, identity, pins)


def tell(
    common: Common,
    found: dict[str, object],
    text: str,
    direct: tuple[str, ...],
    folder: Path,
    identity: Path | None,
    pins: tuple[Path, ...],
) -> int:
    """Return the exit code after the report was told, and what is in force was delivered."""
    if not direct:
        common.emit(_SCHEMA, found, text)
        return 0
    from embrasure.errors import Unavailable

    sent = deliver_to(folder, direct, identity, pins)
    body = [{name: one[name] for name in one if name != "text"} for one in sent]
    lines = "\n".join(str(one["text"]) for one in sent)
    common.emit(_SCHEMA, {**found, "delivered": body}, f"{text}\n{lines}")
    return 0 if all(one["well"] for one in sent) else Unavailable.exit_code
