"""`embrasure trust denials` and `trust lift`: who denied what; lift what was denied wrongly."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import passphrase_options, sign_option

_DIR = click.Path(path_type=Path, file_okay=False)


@click.command("denials")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--env", required=True, help="The environment.")
@click.option("--keep", is_flag=True, help="Draft a policy that denies them all, for good.")
@sign_option
@passphrase_options
@common
def trust_denials(
    common: Common,
    folder: Path,
    env: str,
    keep: bool,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """List what is denied, and by what: the policy (lasts) or a version of the revocations.

    What only revocations deny ends with the next reset, or when targets drop an on-call key:
    `--keep` first takes it into the policy.

    \b
    Examples:
      embrasure trust denials trust --env prod
      embrasure trust denials trust --env prod --keep --sign alice.key --sign bob.key
    """
    from embrasure.clock import now
    from pki import acting, lifting
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    trust = TrustFolder.open(folder)
    found = lifting.denials_json(trust, env)
    body: dict[str, object] = {"env": env, "denials": found}
    lines = [_line(one) for one in found] or ["nothing is denied"]
    if keep:
        source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
        with trust.lock():
            made = lifting.keep(trust, env, clock=now)
            report = acting.sign_and_merge(
                trust, made.drafts, sign, source, common=common, clock=now
            )
        body["drafts"] = report
        lines.append(acting.as_text(report, trust))
    common.emit("embrasure.trust.denials/1", body, "\n".join(lines))


@click.command("lift")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--env", required=True, help="The environment.")
@click.option("--plan", "plans", multiple=True, metavar="SHA256")
@click.option("--manifest", "manifests", multiple=True, metavar="SHA256")
@click.option("--key", "keys", multiple=True, metavar="KEYID")
@click.option("--node", "nodes", multiple=True, metavar="NODE")
@click.option("--gateway-cert", "gateway_certs", multiple=True, metavar="FILE|SHA256")
@click.option("--all", "everything", is_flag=True, help="All that revocations denied.")
@click.option(
    "--through",
    type=click.IntRange(1),
    metavar="VERSION",
    help="Up to this version of the revocations; default: the newest in DIR.",
)
@sign_option
@passphrase_options
@common
def trust_lift(
    common: Common,
    folder: Path,
    env: str,
    plans: tuple[str, ...],
    manifests: tuple[str, ...],
    keys: tuple[str, ...],
    nodes: tuple[str, ...],
    gateway_certs: tuple[str, ...],
    everything: bool,
    through: int | None,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft a policy under which a wrong denial ends: nodes drop it, and never take it again.

    All else that the revocations denied is copied into the policy. It needs the fleet's threshold:
    one on-call key may stop, and never lift.

    \b
    Examples:
      embrasure trust lift trust --env prod --node n-... --sign alice.key --sign bob.key
      embrasure trust lift trust --env prod --all --through 9 --sign alice.key --sign bob.key
    """
    from embrasure.clock import now
    from embrasure.errors import Misuse
    from pki import acting, denials, lifting
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    named = (plans, manifests, keys, nodes, gateway_certs)
    if everything and any(named):
        raise Misuse("trust lift", expected="--all, or what to lift", got="both")
    what = None
    if not everything:
        what = denials.denial(
            plans=plans, manifests=manifests, keys=keys, nodes=nodes, gateway_certs=gateway_certs
        )
    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    with trust.lock():
        made = lifting.lift(trust, env, what, through=through, clock=now)
        report = acting.sign_and_merge(trust, made.drafts, sign, source, common=common, clock=now)
    body: dict[str, object] = {
        **report,
        "through": made.through,
        "dropped": {name: list(found) for name, found in made.dropped.items()},
        "kept": {name: list(found) for name, found in made.kept.items()},
    }
    lines = [f"lifted: {name} {entry}" for name, found in made.dropped.items() for entry in found]
    lines += [f"lasts: {name} {entry}" for name, found in made.kept.items() for entry in found]
    text = "\n".join([*lines, acting.as_text(report, trust)])
    common.emit("embrasure.trust.lift/1", body, text)


def _line(one: dict[str, object]) -> str:
    where = "policy" if one["by"] == "policy" else f"revocations v{one['version']}"
    return f"{one['list']:<14} {one['entry']}  {where}"
