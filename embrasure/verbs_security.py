"""The verbs of the security team: keys, root of trust, certificates, roles, secrets."""

from __future__ import annotations

from embrasure.verb_group import verbs as _verbs

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
            "list": "List the keys outside files that this machine may sign with.",
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
TRUST.table["gateway"] = (
    _verbs(
        "trust gateway",
        {
            "pki.cli_gateways": {
                "add": "Draft gateways that may dial an environment.",
                "remove": "Draft gateways out of an environment.",
            }
        },
        "Gateways, by id.",
    ),
    "Gateways: add, remove.",
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
