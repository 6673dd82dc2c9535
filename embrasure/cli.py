"""The one command: its table of verbs, and the one place where an error becomes an exit code.

Nothing below is imported before it runs, so `--help` is quick and loads no cryptography.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence

import click

from embrasure import __version__
from embrasure.command import LazyGroup, screen
from embrasure.errors import Denied, EmbrasureError, Failed, Misuse, Refused

INTERRUPTED = 130


def _verbs(group: str, modules: dict[str, dict[str, str]], text: str) -> LazyGroup:
    """Return a group; modules: module -> verb -> help line; the attribute is `group_verb`."""
    table: dict[str, tuple[str | click.Group, str]] = {}
    for module, verbs in modules.items():
        for verb, line in verbs.items():
            table[verb] = (f"{module}:{group.replace(' ', '_')}_{verb}", line)
    return LazyGroup(group.split()[-1], table, text)


KEYS = _verbs(
    "keys",
    {
        "pki.cli_keys": {
            "generate": "Make a key file, protected by a passphrase.",
            "show": "Show the public half of a key file.",
            "passphrase": "Change the passphrase of a key file.",
        }
    },
    "Keys of people and online roles.",
)
PKI = _verbs(
    "pki",
    {
        "pki.cli_pki": {
            "init": "Hold the root ceremony: root of trust, CAs, online keys.",
            "enrol": "Check a node's statement and propose its directory entry.",
            "issue": "Issue a certificate for a gateway, mirror, letterbox or operator.",
        },
        "embrasure.cli_care": {
            "inventory": "List who holds what, what ends when, and what to run.",
        },
    },
    "The root of trust and the certificates.",
)
TRUST = _verbs(
    "trust",
    {
        "pki.cli_trust": {
            "sign": "Show the whole change of a draft, then sign it.",
            "merge": "Put a draft with enough signatures in force.",
            "discard": "Drop a draft that is not in force.",
            "renew": "Draft the same content with a new expiry.",
            "show": "Show roles, thresholds, persons and expiries.",
            "verify": "Verify the trust folder from a pinned root.",
            "revoke": "Stop plans, manifests, keys or nodes with one signature.",
            "deny": "Draft lasting denials in the policy.",
        },
        "gateway.cli_trust": {"submit": "Send signed trust files to the gateway."},
    },
    "Who may say what: roles, environments, apps.",
)
TRUST.table["env"] = (
    _verbs("trust env", {"pki.cli_trust": {"add": "Draft a new environment."}}, "Environments."),
    "Environments: add.",
)
TRUST.table["app"] = (
    _verbs(
        "trust app",
        {
            "pki.cli_apps": {
                "add": "Draft an app with its operators and threshold.",
                "set": "Draft another threshold, quotas, canary or soak of an app.",
            }
        },
        "Apps.",
    ),
    "Apps: add, set.",
)
TRUST.table["group"] = (
    _verbs(
        "trust group",
        {
            "pki.cli_apps": {
                "add": "Draft persons into a group that quotas count.",
                "remove": "Draft persons out of a group.",
            }
        },
        "Groups of persons, for quotas.",
    ),
    "Groups of persons: add, remove.",
)
RELEASE = _verbs(
    "release",
    {
        "embrasure.bundle.cli": {
            "build": "Make a bundle: the same input gives the same digest.",
            "inspect": "Show what a bundle holds and how it runs.",
            "diff": "Show what changes between two bundles.",
            "verify": "Check every path, length and digest of a bundle.",
        },
        "gateway.cli_release": {
            "propose": "Upload a bundle and a plan; open an approval.",
            "list": "List proposals and their state.",
            "show": "Show one proposal: approvers, state, where it runs.",
            "withdraw": "Take back one's own proposal.",
        },
    },
    "Bundles and proposals.",
)
ROLLOUT = _verbs(
    "rollout",
    {
        "gateway.cli_rollout": {
            "plan": "Preview a plan: nodes of each wave, and the line to type.",
            "start": "Publish an approved plan and open its first wave.",
            "status": "Show where a roll-out stands, and why.",
            "list": "List roll-outs.",
            "wait": "Wait for the end of a roll-out.",
            "pause": "Hand out nothing new.",
            "resume": "Go on with a paused roll-out.",
            "abort": "End a roll-out.",
            "retry": "Try again on nodes that are not done.",
        },
        "gateway.cli_rollback": {
            "rollback": "Propose the former release again, as a new plan.",
        },
    },
    "Take an approved plan to the fleet, wave by wave.",
)
FLEET = _verbs(
    "fleet",
    {
        "gateway.cli_fleet": {
            "status": "Show counts and releases of the fleet.",
            "list": "List the nodes.",
            "address": "Say where a push node, mirror or letterbox is dialled.",
        }
    },
    "The nodes.",
)
GATEWAY = _verbs(
    "gateway",
    {
        "gateway.cli": {
            "init": "Make a gateway's folder from the trust folder.",
            "run": "Serve operators and run roll-outs.",
            "status": "Show how a gateway is.",
        }
    },
    "The gateway: it dials out and obeys approvals.",
)
AUDIT = _verbs(
    "audit",
    {
        "gateway.cli_audit": {
            "show": "Show the journal.",
            "verify": "Verify the journal's hash chain.",
        }
    },
    "The hash-chained journal of every act.",
)
MIRROR = _verbs(
    "mirror",
    {
        "mirror.cli": {
            "init": "Make a mirror's folder.",
            "run": "Receive from the gateway, serve nodes read-only.",
            "verify": "Verify everything that is served.",
        }
    },
    "A read-only copy that pull nodes fetch from.",
)
LETTERBOX = _verbs(
    "letterbox",
    {
        "mirror.cli": {
            "init": "Make a letterbox's folder.",
            "run": "Take sealed posts from nodes; only the gateway collects.",
        }
    },
    "Where pull nodes post their receipts.",
)
NODE = _verbs(
    "node",
    {
        "node.cli": {
            "init": "Make a node's keys here and print its statement.",
            "enrol": "Take the security team's answer to the statement.",
            "run": "Run the node.",
            "apply": "Install from a repository folder, such as a USB stick.",
            "status": "Show what runs here.",
            "verify": "Hash again all that is installed.",
            "boot": "Finish or undo an interrupted install and start; needs no server.",
        }
    },
    "One server of the fleet.",
)

TABLE: dict[str, tuple[str | click.Group, str]] = {
    "keys": (KEYS, "Keys of people and online roles."),
    "pki": (PKI, "The root of trust and the certificates."),
    "trust": (TRUST, "Who may say what: roles, environments, apps."),
    "release": (RELEASE, "Build, inspect, compare and propose bundles."),
    "approve": ("gateway.cli_approve:approve", "Check a proposal on this machine and sign it."),
    "reject": ("gateway.cli_approve:reject", "Say a signed no to a proposal."),
    "approvals": ("gateway.cli_approve:approvals", "What waits, who signed, who is missing."),
    "rollout": (ROLLOUT, "Take an approved plan to the fleet, wave by wave."),
    "fleet": (FLEET, "The nodes: status, list, addresses."),
    "status": ("gateway.cli_fleet:overview", "One screen: roll-outs, approvals, fleet."),
    "whoami": ("gateway.cli_login:whoami", "Who the gateway takes this operator for."),
    "audit": (AUDIT, "Show and verify the journal."),
    "gateway": (GATEWAY, "Run the gateway."),
    "mirror": (MIRROR, "Run a mirror."),
    "letterbox": (LETTERBOX, "Run a letterbox."),
    "node": (NODE, "Run a node."),
    "doctor": ("embrasure.cli_care:doctor", "Look for what is wrong here, with one fix each."),
    "demo": ("demo.cli:demo", "See it all work on this machine, in a minute."),
}

root = LazyGroup(
    "embrasure", TABLE, "Deploy to a fleet without giving a breached server a way back."
)
root.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        help="Show the version.",
        callback=lambda ctx, _, value: _show_version(ctx) if value else None,
    )
)


def _show_version(ctx: click.Context) -> None:
    click.echo(f"embrasure {__version__}")
    ctx.exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code of one call; whatever went wrong is told on stderr, in one form."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        ended = root.main(args=given, prog_name="embrasure", standalone_mode=False)
        sys.stdout.flush()
        return ended if isinstance(ended, int) and not isinstance(ended, bool) else 0
    except click.exceptions.NoArgsIsHelpError as problem:
        click.echo(problem.format_message(), err=True)
        return Misuse.exit_code
    except (click.Abort, KeyboardInterrupt) as problem:
        if isinstance(problem.__cause__, EOFError):
            return tell(given, _no_answer(), problem)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # who reads it has gone, and knows
        return Failed.exit_code
    except Exception as problem:  # the last line of defence: never a traceback unasked
        _drop_output()
        return tell(given, as_ours(problem), problem)


def _drop_output() -> None:
    """What stdout cannot take is dropped: the flush at exit must not fail a second time."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def worst(problem: Exception) -> Exception:
    """Return the error of a group that decides: a failed verification before every other."""
    if not isinstance(problem, ExceptionGroup):
        return problem
    found = [worst(one) for one in problem.exceptions]
    ours = [one for one in found if isinstance(one, EmbrasureError)]
    refused = [one for one in ours if one.exit_code == Refused.exit_code]
    return [*refused, *ours, *found][0]


def as_ours(problem: Exception) -> EmbrasureError:
    """Return the error that says what `problem` says, in our form and with our exit code."""
    problem = worst(problem)
    if isinstance(problem, EmbrasureError):
        return problem
    if isinstance(problem, click.ClickException):
        ctx = getattr(problem, "ctx", None)
        path = ctx.command_path if ctx is not None else "embrasure"
        return Misuse(
            "command line",
            expected=f"the arguments of `{path}`",
            got=problem.format_message().rstrip("."),
            hint=f"{path} --help",
        )
    if isinstance(problem, OSError):
        return Failed(
            str(problem.filename) if problem.filename is not None else "system call",
            expected="an operation that the system allows",
            got=problem.strerror or type(problem).__name__,
            untouched="whatever was in force stays in force",
            reason="io",
        )
    return Failed(
        "embrasure",
        expected="no internal error",
        got=f"{type(problem).__name__}: {problem}",
        untouched="whatever was in force stays in force",
        hint="the same command with --verbose shows where; please report it",
        reason="internal",
    )


def _no_answer() -> EmbrasureError:
    return Denied(
        "input",
        expected="an answer",
        got="the end of the input",
        hint="run it on a terminal, or give the answer as a flag",
        reason="no-input",
    )


def tell(given: Sequence[str], error: EmbrasureError, cause: BaseException) -> int:
    """Return the exit code after the error is on stderr: as JSON under `--json`, else as text."""
    flags = given[: given.index("--")] if "--" in given else given
    if "--verbose" in flags:
        click.echo(screen("".join(traceback.format_exception(cause))), err=True)
    if "--json" in flags:
        click.echo(json.dumps(error.as_json()), err=True)
    else:
        first, *others = error.lines()
        click.echo(screen("\n".join([f"embrasure: {first}", *others])), err=True)
    return error.exit_code
