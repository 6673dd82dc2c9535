"""The verbs of one node: make it, enrol it, run it, look at it, feed it from a stick."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import click

from embrasure.command import Common, common
from embrasure.errors import EmbrasureError
from node.options import F, node_options, token_options

# Finer than the other commands' codes: scripts on a host tell these apart.
EXITS = (
    "Exit codes: 0 committed or nothing to do, 1 internal error, 2 usage, 10 rejected (trust, "
    "path, schema), 11 rejected (stale, replay, quarantined, denied), 20 rolled back, 21 degraded, "
    "30 no space, 31 busy, 32 waiting (gate, turn, hold), 40 drift, 50 source unreachable, "
    "51 agent not running, 60 secret or sandbox missing, 61 damaged, so that it only serves; "
    "0-5 as elsewhere under --plain-exit."
)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def plain_option(function: F) -> F:
    """The verb takes `--plain-exit`."""
    return click.option(
        "--plain-exit", is_flag=True, help="Exit codes 0-5 as of every other command."
    )(function)


@contextmanager
def finer(plain_exit: bool) -> Iterator[None]:
    """An error ends the verb with the node's own exit code."""
    from node import exits

    try:
        yield
    except EmbrasureError as problem:
        problem.exit_code = exits.exit_of_error(problem, is_plain=plain_exit)
        raise


@click.command()
@node_options
@click.option("--env", required=True, help="The environment it belongs to.")
@click.option("--mode", required=True, type=click.Choice(["push", "pull"]), help="Who dials.")
@click.option("--domain", required=True, help="The TLS trust domain, as in `pki init`.")
@click.option("--anchor", required=True, type=FILE, help="anchor.json of the security team.")
@click.option("--id", "node", default="", metavar="ID", help="A node id; default: a random one.")
@click.option(
    "--epoch", default=1, show_default=True, type=click.IntRange(1, 2**53 - 1),
    help="With --id: one above that of the keys which this node had before.",
)  # fmt: skip
@click.option("--listen", default="127.0.0.1:0", show_default=True, help="Push: where to listen.")
@click.option("--door", default="127.0.0.1:0", show_default=True,
              help="Push: where to take trust files from the security team.")  # fmt: skip
@click.option("--mirror", "mirrors", multiple=True, metavar="NAME=HOST:PORT", help="Pull: ask it.")
@click.option("--letterbox", metavar="NAME=HOST:PORT", help="Pull: where receipts are posted.")
@click.option(
    "--app", "apps", multiple=True, metavar="APP:PORT=NUMBER",
    help="Let this app run here, on this port (repeat).",
)  # fmt: skip
@click.option(
    "--interpreter", "interpreters", multiple=True, metavar="NAME=FILE",
    help="A program of this host that these apps may start with (repeat).",
)  # fmt: skip
@click.option(
    "--gateway-issuer", type=FILE, metavar="FILE",
    help="Push: ca/gateway.crt of the security team, to join by a token.",
)  # fmt: skip
@token_options
@click.option("--poll", "poll_s", default=60, show_default=True, help="Pull: seconds at most.")
@common
def node_init(
    common: Common,
    prefix: Path,
    env: str,
    mode: Literal["push", "pull"],
    domain: str,
    anchor: Path,
    node: str,
    epoch: int,
    listen: str,
    door: str,
    mirrors: Sequence[str],
    letterbox: str | None,
    apps: Sequence[str],
    interpreters: Sequence[str],
    gateway_issuer: Path | None,
    token_fd: int | None,
    token_file: Path | None,
    poll_s: int,
) -> None:
    """Make a node's keys here, and its statement for the security team: a file, and into a pipe.

    \b
    Examples:
      embrasure node init --root /srv/n1 --env prod --mode push --domain corp --anchor anchor.json
      embrasure node init --root /srv/n1 --env prod --mode push --domain corp \\
          --anchor anchor.json --app shop:web=8001 --interpreter python3=/usr/bin/python3
      embrasure node init --root /srv/n1 --env prod --mode push --domain corp \\
          --anchor anchor.json --id n-... --epoch 2
      embrasure node init --root /srv/n1 --env prod --mode push --domain corp \\
          --anchor anchor.json --id n-... --gateway-issuer gateway.crt --token-fd 3 3< token
    """
    from embrasure.fingerprint import groups, words
    from embrasure.undo import all_or_nothing
    from node.appfiles import app_texts
    from node.paths import Paths
    from node.setup import Wish, make_node, parse_server
    from node.tokens import read_token

    wish = Wish(
        env=env, mode=mode, domain=domain, anchor=anchor, node=node, epoch=epoch, listen=listen,
        door=door,
        poll_s=poll_s,
        mirrors=tuple(parse_server(one) for one in mirrors),
        letterbox=parse_server(letterbox) if letterbox else None,
        apps=app_texts(apps, interpreters), gateway_issuer=gateway_issuer,
        token=read_token(fd=token_fd, file=token_file),
    )  # fmt: skip
    with all_or_nothing(prefix):
        made = make_node(Paths(prefix.resolve()), wish)
    todo = f"carry {made.path} to `embrasure pki enrol`, which shows these:"
    if wish.token is not None:
        todo = f"run it, then `embrasure pki join {made.node} DIR --env {env}`, which shows these:"
    common.say(f"node {made.node}; {todo}")
    common.say(f"fingerprint {groups(made.fingerprint)}\n{words(made.fingerprint)}")
    statement = made.statement.decode("ascii")
    found = {
        "node": made.node,
        "fleet": f"sha256:{made.root_id}",
        "fingerprint": f"sha256:{made.fingerprint}",
        "path": str(made.path),
    }
    # Six thousand letters are for a pipe; on a terminal they would hide what has to be compared.
    text = "" if sys.stdout.isatty() else statement
    common.emit("embrasure.node.init/1", {**found, "statement": statement}, text)


@click.command()
@node_options
@click.argument("answer", type=FILE)
@click.option(
    "--trust", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with the fleet's trust files: who signed the answer is checked by them, now.",
)  # fmt: skip
@common
def node_enrol(common: Common, prefix: Path, answer: Path, trust: Path | None) -> None:
    """Take the security team's answer to this node's statement.

    With --trust the answer is verified from this node's anchor before it is kept; without, at the
    first refresh.

    \b
    Examples:
      embrasure node enrol --root /srv/n1 enrolled.json
      embrasure node enrol --root /srv/n1 enrolled.json --trust /media/stick
    """
    from node.first_trust import verify_carried
    from node.paths import Paths
    from node.setup import enrol

    paths = Paths(prefix.resolve())
    if trust is not None:
        verify_carried(paths, answer, trust)
    found = enrol(paths, answer)
    body = {"node": found.node, "env": found.env, "epoch": found.epoch, "domain": found.tls.domain}
    text = f"node {found.node} of {found.env} is enrolled"
    if trust is None:
        text += ", once its first refresh has checked who signed that"
    common.emit("embrasure.node.enrol/1", {**body, "verified": trust is not None}, text)


@click.command(epilog=EXITS)
@node_options
@click.option(
    "--only", type=click.Choice(["apply", "fetch"]),
    help="One process of the two, for a service manager that starts each by its own unit.",
)  # fmt: skip
@common
def node_run(common: Common, prefix: Path, only: str | None) -> int:
    """Run the node: apply and fetch as two processes, started again when they end.

    \b
    Examples:
      embrasure node run --root /srv/n1
      embrasure node run --only fetch
    """
    from node import logs, run, service
    from node.paths import Paths

    paths = Paths(prefix.resolve())
    with finer(plain_exit=False):
        if only is not None:
            return run.run_only(paths, only)
        logs.start("node")
        run.run(paths, service.Signals().stop())
    return 0


@click.command(epilog=EXITS)
@node_options
@plain_option
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@common
def node_apply(common: Common, prefix: Path, path: Path, plain_exit: bool) -> int:
    """Install from a repository folder, such as a USB stick; the same checks as from a server.

    \b
    Examples:
      embrasure node apply --root /srv/n1 /media/stick/repository
    """
    from node import exits, show, stick
    from node.paths import Paths

    with finer(plain_exit):
        answers = stick.apply_folder(Paths(prefix.resolve()), path, common.say)
    code = exits.worst(answers)
    code = exits.plain(code) if plain_exit else code
    common.emit(
        "embrasure.node.apply/1", show.answers_json(answers, code), show.answers_text(answers)
    )
    return code


@click.command(epilog=EXITS)
@node_options
@plain_option
@common
def node_status(common: Common, prefix: Path, plain_exit: bool) -> int:
    """Show what runs here; answers from disk when the agent does not run (exit 51).

    \b
    Examples:
      embrasure node status --root /srv/n1 --json
    """
    from node import exits, show
    from node.paths import Paths

    state, is_running = show.look(Paths(prefix.resolve()))
    common.emit(
        "embrasure.node.status/1",
        show.state_json(state, is_running=is_running),
        show.state_text(state, is_running=is_running),
    )
    code = exits.exit_of_state(state) or (exits.DONE if is_running else exits.NOT_RUNNING)
    return exits.plain(code) if plain_exit else code


@click.command(epilog=EXITS)
@node_options
@plain_option
@click.argument("app", default="")
@click.option("--quick", is_flag=True, help="Sizes, modes and links only; no file is hashed.")
@common
def node_verify(common: Common, prefix: Path, app: str, quick: bool, plain_exit: bool) -> int:
    """Hash again all that is installed; drift is told to the file (exit 40). Needs no server.

    That is what runs, the release that a roll-back goes to, and pinned ones.

    \b
    Examples:
      embrasure node verify --root /srv/n1
      embrasure node verify --root /srv/n1 shop --quick
    """
    from node import exits, show, verify
    from node.paths import Paths

    with finer(plain_exit):
        paths = Paths(prefix.resolve())
        found = verify.verify(paths, app, deep=not quick)
        found += verify.verify_kept(paths, app, deep=not quick)
    common.emit("embrasure.node.verify/1", show.verified_json(found), show.verified_text(found))
    code = exits.DRIFT if any(one.drift for one in found) else exits.DONE
    return exits.plain(code) if plain_exit else code


@click.command(epilog=EXITS)
@node_options
@plain_option
@click.option("--foreground", is_flag=True, help="Keep the apps running until SIGTERM.")
@common
def node_boot(common: Common, prefix: Path, foreground: bool, plain_exit: bool) -> int:
    """Finish or undo an interrupted install and start what was committed; needs no server.

    \b
    Examples:
      embrasure node boot --root /srv/n1 --foreground
    """
    from node import boot, exits, show
    from node.paths import Paths

    paths = Paths(prefix.resolve())
    with finer(plain_exit):
        state = boot.boot(paths, foreground=foreground, say=common.say)
    common.emit(
        "embrasure.node.boot/1",
        show.state_json(state, is_running=False),
        show.state_text(state, is_running=False),
    )
    code = exits.DRIFT if boot.drifted(paths) else exits.DONE
    code = exits.DEGRADED if boot.is_degraded(state) else code
    code = exits.exit_of_state(state) or code
    return exits.plain(code) if plain_exit else code
