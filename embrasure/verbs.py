"""The table of verbs: where each is, and its one line of help. Nothing of it is imported here."""

from __future__ import annotations

import click

from embrasure.verb_group import verbs as _verbs
from embrasure.verbs_security import KEYS, PKI, SECRET, TRUST

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
        },
        "gateway.cli_holders": {"trust": "Show who believes which TLS trust bundle."},
        "gateway.cli_nodes": {
            "recover": "Renew a node whose certificate has ended, by its boot certificate.",
        },
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
        },
        "mirror.cli_trust": {"trust": "Take newer trust files from a folder and show them."},
    },
    "A read-only copy that pull nodes fetch from.",
)
LETTERBOX = _verbs(
    "letterbox",
    {
        "mirror.cli": {
            "init": "Make a letterbox's folder.",
            "run": "Take sealed posts from nodes; only the gateway collects.",
        },
        "mirror.cli_trust": {"trust": "Take newer trust files from a folder."},
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
        },
        "node.cli_mend": {"mend": "Put back damaged or lost files of the owner."},
        "node.cli_recover": {"recover": "Undo an install that a dead agent left open."},
        "node.cli_repair": {"repair": "Rebuild an installed release whose files differ."},
        "node.cli_trust": {"trust": "Take newer trust files from a folder; installs nothing."},
        "node.cli_hold": {
            "hold": "Install nothing new of an app for a while.",
            "unhold": "End a hold.",
            "maintenance": "Take no order for a while.",
        },
        "node.cli_pin": {
            "pin": "Keep a release of an app, however old it gets.",
            "unpin": "Let a pinned release go when its time comes.",
        },
        "node.cli_join": {
            "token": "Answer for a new join token.",
            "image": "Check that a machine image holds public data only.",
        },
    },
    "One server of the fleet.",
)

TABLE: dict[str, tuple[str | click.Group, str]] = {
    "keys": (KEYS, "Keys of people and online roles."),
    "pki": (PKI, "The root of trust and the certificates."),
    "trust": (TRUST, "Who may say what: roles, environments, apps."),
    "release": (RELEASE, "Build, inspect, compare and propose bundles."),
    "secret": (SECRET, "Secrets for nodes: seal, rewrap, list, open."),
    "approve": ("gateway.cli_approve:approve", "Check a proposal on this machine and sign it."),
    "reject": ("gateway.cli_approve:reject", "Say a signed no to a proposal."),
    "approvals": ("gateway.cli_approve:approvals", "What waits, who signed, who is missing."),
    "rollout": (ROLLOUT, "Take an approved plan to the fleet, wave by wave."),
    "fleet": (FLEET, "The nodes: status, list, addresses."),
    "status": ("gateway.cli_fleet:overview", "One screen: roll-outs, approvals, fleet."),
    "login": ("gateway.cli_login:login", "Get a 10 h TLS certificate with your signing key."),
    "whoami": ("gateway.cli_login:whoami", "Who the gateway takes this operator for."),
    "audit": (AUDIT, "Show and verify the journal."),
    "gateway": (GATEWAY, "Run the gateway."),
    "mirror": (MIRROR, "Run a mirror."),
    "letterbox": (LETTERBOX, "Run a letterbox."),
    "node": (NODE, "Run a node."),
    "doctor": ("embrasure.cli_care:doctor", "Look for what is wrong here, with one fix each."),
    "demo": ("demo.cli:demo", "See it all work on this machine, in a minute."),
}
