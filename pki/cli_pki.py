"""`embrasure pki`: the root ceremony, enrolment of nodes, certificates of services and people."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from embrasure.errors import Misuse
from pki.options import kdf_option, passphrase_options, sign_option

_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("init")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--domain", required=True, help="The TLS trust domain, such as example.org.")
@click.option(
    "--keyholder",
    "keyholders",
    multiple=True,
    required=True,
    metavar="NAME|FILE.pub",
    help="Who signs root, targets and environments (repeat).",
)
@click.option("--threshold", type=click.IntRange(1, 32), required=True, help="How many of them.")
@click.option("--generate", is_flag=True, help="Make keys of plain names here and sign at once.")
@click.option("--env", metavar="ENV", help="With --generate: add this environment, signed too.")
@click.option(
    "--ca-key",
    "ca_keys",
    multiple=True,
    metavar="NAME=URI",
    help="The key of root, gateway, admin, node, mirror or operator CA lies in a token (repeat).",
)
@click.option(
    "--root-alg",
    type=click.Choice(["p256", "p384", "ml-dsa-65"]),
    default="p256",
    show_default=True,
    help="Kind of the CA root's key; issuers and leaves are P-256.",
)
@kdf_option
@passphrase_options
@common
def pki_init(
    common: Common,
    folder: Path,
    domain: str,
    keyholders: tuple[str, ...],
    threshold: int,
    generate: bool,
    env: str | None,
    ca_keys: tuple[str, ...],
    root_alg: str,
    kdf: str | None,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Make a trust folder: root of trust, CAs, online keys, and drafts of the first roles.

    \b
    Examples:
      embrasure pki init trust --domain example.org --keyholder alice.pub \\
          --keyholder bob.pub --keyholder carl.pub --threshold 2
      embrasure pki init trust --domain example.org --keyholder alice --keyholder bob \\
          --keyholder carl --threshold 2 --generate --env prod
      embrasure pki init trust --domain example.org --keyholder alice.pub --keyholder bob.pub \\
          --threshold 2 --ca-key 'root=hsm:2?label=ca' --ca-key 'gateway=hsm:3?label=ca'
    """
    from embrasure.clock import now
    from embrasure.undo import all_or_nothing
    from pki import acting, authorities, ceremony
    from pki.ca_book import ROOT_ALGORITHMS
    from pki.passphrase import passphrase_source

    if env is not None and not generate:
        raise Misuse(
            "--env", expected="--generate beside it", got="keys that are elsewhere",
            hint="embrasure trust env add drafts an environment for keyholders to sign",
        )  # fmt: skip

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    holders = ceremony.keyholders(keyholders, threshold=threshold, generate=generate)
    costs = ceremony.Costs(
        offline=acting.cost_of(kdf, purpose="security"),
        online=acting.cost_of(kdf, purpose="online"),
    )
    outside = authorities.outside_keys(ca_keys, source)
    with all_or_nothing(folder):
        trust = ceremony.hold(
            folder,
            domain=domain,
            holders=holders,
            passphrase=source.new(f"the keys made in {folder}"),
            costs=costs,
            clock=now,
            outside=outside,
            root_scheme=ROOT_ALGORITHMS[root_alg],
        )
    if env is not None:
        acting.first_environment(
            trust,
            env,
            keys=[str(folder / "keys" / f"{name}.key") for name in keyholders[:threshold]],
            source=source,
            cost=costs.online,
            common=common,
            clock=now,
        )
    found = acting.report(trust, [f"{name} v{v}" for name, v in trust.roles().items()], [])
    common.emit("embrasure.pki.init/1", found, acting.as_text(found, trust))


@click.command("issue")
@click.argument("identities", metavar="ROLE/NAME...", nargs=-1, required=True)
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option(
    "--out", type=_DIR, required=True, help="Folder for tls.key, tls.crt; of several: OUT/NAME."
)
@click.option("--csr", type=_FILE, help="Certify this request's key; no key is made here.")
@click.option("--gateway", metavar="HOST:PORT", help="Operators: the gateway's admin address.")
@click.option("--login", metavar="HOST:PORT", help="Operators: the gateway's log-in address.")
@click.option(
    "--key",
    metavar="URI",
    help="Operators: the signing key; else DIR/keys/NAME.key if it is there.",
)
@click.option(
    "--ca-root",
    type=click.IntRange(1, 99),
    help="Show the chain below this CA root, for a door that knows no later one.",
)
@passphrase_options
@common
def pki_issue(
    common: Common,
    identities: tuple[str, ...],
    folder: Path,
    out: Path,
    csr: Path | None,
    gateway: str | None,
    login: str | None,
    key: str | None,
    ca_root: int | None,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Issue TLS certificates for gateway, gateway-admin, mirror, letterbox or operator.

    \b
    Examples:
      embrasure pki issue mirror/m1 trust --out m1-tls
      embrasure pki issue operator/anna trust --out anna --gateway 127.0.0.1:7443 --key anna.key
      embrasure pki issue operator/anna operator/bea trust --out people --gateway 127.0.0.1:7443
      embrasure pki issue operator/anna trust --out anna-old --ca-root 1
    """
    from embrasure.clock import now
    from pki import issue
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    several = len(identities) > 1
    if several and (csr is not None or key is not None):
        raise Misuse("pki issue", expected="one identity with --csr or --key", got="several")
    made = []
    for identity in identities:
        place = out / identity.partition("/")[2] if several else out
        issued = issue.issue(
            trust, identity, place, csr=csr, source=source, clock=now, root=ca_root
        )
        if issued.role == "operator":
            issue.write_context(trust, issued, gateway=gateway, key=key, login=login)
        made.append(issued)
    common.emit(
        "embrasure.pki.issue/1",
        {"issued": [one.as_json() for one in made]} if several else made[0].as_json(),
        "\n".join(one.as_text() for one in made),
    )


@click.command("enrol")
@click.argument("statements", metavar="STATEMENT...", nargs=-1, required=True, type=_FILE)
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Label (repeat).")
@click.option("--out", type=click.Path(path_type=Path), help="File, or folder for several.")
@click.option(
    "--ca-passphrase-file", type=_FILE, help="Passphrase of ca/node.key, if it is another one."
)
@sign_option
@passphrase_options
@common
def pki_enrol(
    common: Common,
    statements: tuple[Path, ...],
    folder: Path,
    labels: tuple[str, ...],
    out: Path | None,
    ca_passphrase_file: Path | None,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Check nodes' statements, draft their directory entries, write the answers to carry back.

    \b
    Examples:
      embrasure pki enrol statement.json trust --label site=a --sign alice.key --sign bob.key
      embrasure pki enrol n1.json n2.json trust --out answers --sign alice.key --sign bob.key
    """
    from embrasure.clock import now
    from pki import acting, enrolment
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    given = acting.pairs(labels, flag="--label") if labels else None
    checked = enrolment.read_statements(trust, statements)
    for one in checked:
        common.say(enrolment.introduce(one))
    with trust.lock():
        found = enrolment.propose(
            trust, checked, labels=given, keys=sign, source=source, common=common, clock=now
        )
        authority = source
        if ca_passphrase_file is not None:
            authority = passphrase_source(fd=None, file=ca_passphrase_file, no_input=True)
        answers = enrolment.answer_all(
            trust, checked, out, keys=sign, source=source, authority=authority, clock=now
        )
    body = {**found, "nodes": [one.statement.node for one in checked], "answers": answers}
    told = [acting.as_text(found, trust), *(f"answer: {path}" for path in answers.values())]
    common.emit("embrasure.pki.enrol/1", body, "\n".join(line for line in told if line))
