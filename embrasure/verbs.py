"""The table of verbs: where each is, and its one line of help. Nothing of it is imported here."""

from __future__ import annotations

import click

from embrasure.command import LazyGroup


def _verbs(group: str, modules: dict[str, dict[str, str]], text: str) -> LazyGroup:
    """Return a group; modules: module -> verb -> help line; the attribute is `group_verb`."""
    table: dict[str, tuple[str | click.Group, str]] = {}
    for module, verbs in modules.items():
        for verb, line in verbs.items():
            name = f"{group} {verb}".replace(" ", "_").replace("-", "_")
            table[verb] = (f"{module}:{name}", line)
    return LazyGroup(group.split()[-1], table, text)


TOKENS = _verbs(
    "keys hsm",
    {
        "pki.cli_tokens": {
            "list": "List the PKCS#11 tokens that are here, and their keys.",
            "generate": "Make a key inside a token.",
        }
    },
    "Keys in PKCS#11 tokens.",
)
KEYS = _verbs(
    "keys",
    {
        "pki.cli_keys": {
            "generate": "Make a key file, protected by a passphrase.",
            "show": "Show the public half of a key file.",
            "passphrase": "Change the passphrase of a key file.",
        },
        "pki.cli_tokens": {
            "export": "Write the public half of a key in a token or key service.",
        },
    },
    "Keys of people and online roles.",
)
KEYS.table["hsm"] = (TOKENS, "Keys in PKCS#11 tokens.")
PKI = _verbs(
    "pki",
    {
        "pki.cli_pki": {
            "init": "Hold the root ceremony: root of trust, CAs, online keys.",
            "enrol": "Check a node's statement and propose its directory entry.",
            "issue": "Issue a certificate for a gateway, mirror, letterbox or operator.",
        },
        "pki.cli_nodes": {
            "retire": "Take a node out of the fleet; its id is never used again.",
        },
        "pki.cli_transcript": {
            "verify-transcript": "Verify the signed record of a ceremony again.",
        },
        "pki.cli_join": {
            "token": "Mint a one-time token by which a new node joins.",
        },
        "gateway.cli_join": {
            "join": "Enrol a node by its token, through the gateway.",
        },
        "embrasure.cli_care": {
            "inventory": "List who holds what, what ends when, and what to run.",
        },
    },
    "The root of trust and the certificates.",
)
PKI.table["keyholder"] = (
    _verbs(
        "pki keyholder",
        {
            "pki.cli_keyholder": {
                "add": "Draft more keyholders of a role.",
                "remove": "Draft a role without some keyholders.",
                "replace": "Draft other keys in the place of some keyholders'.",
                "threshold": "Draft how many keyholders must sign.",
                "prove": "Prove that you hold your new key.",
            }
        },
        "Keyholders of root, targets, revocations, environments and apps.",
    ),
    "Keyholders: add, remove, replace, threshold, prove.",
)
PKI.table["transcript"] = (
    _verbs(
        "pki transcript",
        {"pki.cli_transcript": {"close": "Sign the record of a ceremony, so that it is closed."}},
        "The record of every act on a trust folder.",
    ),
    "The record of every act: close.",
)
PKI.table["online"] = (
    _verbs(
        "pki online",
        {"pki.cli_keyholder": {"rotate": "Make new online keys and draft who names them."}},
        "Keys that a gateway signs with.",
    ),
    "Online keys: rotate.",
)
PKI.table["issuer"] = (
    _verbs(
        "pki issuer",
        {
            "pki.cli_issuers": {
                "create": "Make the next issuer of a role; it issues nothing yet.",
                "activate": "The prepared issuer issues from now on.",
                "retire": "Take the former issuer out of every tls.json.",
                "taint": "Deny a stolen issuer in every environment.",
                "rotate": "Take the next step of a rotation.",
                "status": "Show states, ends, and who lacks which files.",
            }
        },
        "The issuers of TLS certificates.",
    ),
    "Issuers: create, activate, retire, taint, rotate, status.",
)
PKI.table["ca"] = (
    _verbs(
        "pki ca",
        {
            "pki.cli_ca": {
                "rotate": "Make a new CA root beside the old one.",
                "retire": "Take the old CA root out of every tls.json.",
            }
        },
        "The CA root.",
    ),
    "The CA root: rotate, retire.",
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
        "pki.cli_rounds": {
            "pending": "Show which keys each draft still needs, and where they lie.",
            "refuse": "Say a signed no to a draft.",
        },
        "pki.cli_lift": {
            "denials": "List what is denied, and by what.",
            "lift": "Draft the end of a wrong denial; the others last.",
        },
        "pki.cli_deliver": {
            "deliver": "Take trust files to doors past the gateway, or into a folder.",
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
SECRET = _verbs(
    "secret",
    {
        "gateway.cli_secret": {
            "seal": "Seal a value to the nodes that may run an app.",
            "rewrap": "Seal files again to the nodes of today, with the recovery key.",
            "list": "List secrets, who can open them and who cannot.",
        },
        "pki.cli_secret": {"open": "Open a sealed file with the recovery key."},
    },
    "Secrets for nodes: sealed here, opened there and nowhere between.",
)
SECRET.table["recovery"] = (
    _verbs(
        "secret recovery",
        {
            "pki.cli_secret": {
                "generate": "Make the offline recovery key.",
                "adopt": "Draft the environment's recovery recipient.",
            }
        },
        "The offline recipient of every secret.",
    ),
    "The offline recipient: generate, adopt.",
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
        },
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
        "node.cli_trust": {"trust": "Take newer trust files from a folder; installs nothing."},
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
