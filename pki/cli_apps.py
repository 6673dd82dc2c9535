"""`embrasure trust app` and `trust group`: who approves an app, how many, of which groups."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import kdf_option, passphrase_options, sign_option

_DIR = click.Path(path_type=Path, file_okay=False)
_SCHEMA = "embrasure.trust.drafts/1"
quota_option = click.option(
    "--quota", multiple=True, metavar="GROUP=N", help="So many approvers of this group (repeat)."
)
member_option = click.option(
    "--member", multiple=True, metavar="GROUP=NAME", help="Put a person into a group (repeat)."
)


@click.command("add")
@click.argument("app")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--env", required=True, help="The environment.")
@click.option(
    "--operator",
    "named",
    multiple=True,
    required=True,
    metavar="NAME[=FILE.pub]",
    help="Who may approve (repeat).",
)
@click.option("--threshold", type=click.IntRange(1, 32), required=True, help="How many must.")
@click.option("--group", multiple=True, metavar="K=V", help="Labels of the app's nodes.")
@click.option("--min-soak", type=click.IntRange(0, 86400), default=60, help="Seconds of a wave.")
@click.option("--min-canary", type=click.IntRange(1, 16), default=1, help="Nodes of wave 0.")
@click.option("--max-second-percent", type=click.IntRange(1, 100), default=50, help="Of wave 1.")
@quota_option
@member_option
@click.option(
    "--proof",
    "proofs",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="That an operator has the key: what `pki keyholder prove` wrote (repeat).",
)
@click.option("--generate", is_flag=True, help="Make the keys of operators without one here.")
@kdf_option
@sign_option
@passphrase_options
@common
def trust_app_add(
    common: Common,
    app: str,
    folder: Path,
    env: str,
    named: tuple[str, ...],
    threshold: int,
    group: tuple[str, ...],
    min_soak: int,
    min_canary: int,
    max_second_percent: int,
    quota: tuple[str, ...],
    member: tuple[str, ...],
    proofs: tuple[Path, ...],
    generate: bool,
    kdf: str | None,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft an app of an environment: its operators, how many of them approve, its rules.

    \b
    Examples:
      embrasure trust app add shop trust --env prod --operator anna=anna.pub \\
          --operator bea=bea.pub --operator carl=carl.pub --threshold 2
      embrasure trust app add shop trust --env prod --operator anna --operator bea \\
          --operator carl --threshold 2 --generate --sign alice.key --sign bob.key
      embrasure trust app add shop trust --env prod --operator anna --operator bea \\
          --operator carl --threshold 2 --quota sre=1 --member sre=anna --member sre=bea
    """
    from embrasure.clock import now
    from pki import acting, apps, possession, quotas
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    who = apps.operators(trust, named, generate=generate)
    rules = apps.Rules(
        group=acting.pairs(group, flag="--group"),
        min_canary=min_canary,
        min_soak_s=min_soak,
        max_second_percent=max_second_percent,
        quotas=quotas.read_quotas(quota),
        members=quotas.read_members(member),
    )
    with trust.lock():
        work = apps.add_app(trust, env, app, who=who, threshold=threshold, rules=rules, clock=now)
        secret = source.new(f"the operators' keys of {app}") if who.made else None
        apps.keep_keys(trust, who, secret, acting.cost_of(kdf, purpose="operator"))
        proved = possession.proofs_of(
            who.made, who.known, possession.read_proofs(proofs), root=trust.root_id, at=now()
        )
        made = work.write()
        possession.attach(made, proved)
        found = acting.sign_and_merge(trust, made, sign, source, common=common, clock=now)
    common.emit(_SCHEMA, found, acting.as_text(found, trust))


@click.command("set")
@click.argument("app")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--env", required=True, help="The environment.")
@click.option("--threshold", type=click.IntRange(1, 32), help="How many operators must approve.")
@click.option("--min-soak", type=click.IntRange(0, 86400), help="Seconds of a wave.")
@click.option("--min-canary", type=click.IntRange(1, 16), help="Nodes of wave 0.")
@click.option("--max-second-percent", type=click.IntRange(1, 100), help="Of wave 1.")
@quota_option
@click.option("--no-quotas", is_flag=True, help="Ask for no group any more.")
@member_option
@sign_option
@passphrase_options
@common
def trust_app_set(
    common: Common,
    app: str,
    folder: Path,
    env: str,
    threshold: int | None,
    min_soak: int | None,
    min_canary: int | None,
    max_second_percent: int | None,
    quota: tuple[str, ...],
    no_quotas: bool,
    member: tuple[str, ...],
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft other rules of an app: its threshold, quotas of groups, canary, soak. The rest stays.

    \b
    Examples:
      embrasure trust app set shop trust --env prod --quota sre=1 --quota security=1
      embrasure trust app set shop trust --env prod --threshold 3 --sign alice.key --sign bob.key
    """
    from embrasure.clock import now
    from pki import acting, apprules, quotas
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    change = apprules.Change(
        threshold=threshold,
        min_soak_s=min_soak,
        min_canary=min_canary,
        max_second_percent=max_second_percent,
        quotas={} if no_quotas else quotas.read_quotas(quota) if quota else None,
        members=quotas.read_members(member),
    )
    with trust.lock():
        made, warnings = apprules.change_app(trust, env, app, change, clock=now)
        for warning in warnings:
            common.say(f"warning: {warning}")
        found = acting.sign_and_merge(trust, made, sign, source, common=common, clock=now)
    common.emit(_SCHEMA, found, acting.as_text(found, trust))


def _group(act: str) -> click.Command:
    @click.command(act)
    @click.argument("group")
    @click.argument("folder", metavar="DIR", type=_DIR)
    @click.option("--env", required=True, help="The environment.")
    @click.option("--person", "persons", multiple=True, required=True, help="Who (repeat).")
    @sign_option
    @passphrase_options
    @common
    def verb(
        common: Common,
        group: str,
        folder: Path,
        env: str,
        persons: tuple[str, ...],
        sign: tuple[str, ...],
        passphrase_fd: int | None,
        passphrase_file: Path | None,
    ) -> None:
        from embrasure.clock import now
        from pki import acting, apprules
        from pki.folder import TrustFolder
        from pki.passphrase import passphrase_source

        source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
        trust = TrustFolder.open(folder)
        with trust.lock():
            made = apprules.change_group(
                trust, env, group, persons, leave=act == "remove", clock=now
            )
            found = acting.sign_and_merge(trust, made, sign, source, common=common, clock=now)
        common.emit(_SCHEMA, found, acting.as_text(found, trust))

    return verb


trust_group_add = _group("add")
trust_group_add.help = """Draft persons of an environment into a group, for quotas to count.

\b
Examples:
  embrasure trust group add sre trust --env prod --person anna --person bea
  embrasure trust group add security trust --env prod --person carl --sign alice.key
"""
trust_group_remove = _group("remove")
trust_group_remove.help = """Draft persons out of a group; refused when a quota could not be met.

\b
Examples:
  embrasure trust group remove sre trust --env prod --person anna
  embrasure trust group remove sre trust --env prod --person anna --sign alice.key
"""
