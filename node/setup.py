"""Makes a node out of a machine: folders, configuration, keys, statement; then its enrolment.

Nothing here is secret but the keys, and they never leave; what is carried away is the statement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509

from embrasure import clock, limits
from embrasure.config import parse_toml
from embrasure.errors import Misuse, Refused
from embrasure.fs import Folder, create_file, read_file, replace_file
from embrasure.net.certificates import load_certificates, load_der, pem_of
from embrasure.net.trustbundle import trust_of
from embrasure.trust import dsse, layout
from embrasure.trust.anchor import root_id_of
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.directory import Enrolled
from embrasure.trust.documents import write
from embrasure.trust.joining import Answering, join_key, mac_of
from node.config import NodeConfig, Server
from node.identity import (
    Identity,
    create_identity,
    load_identity,
    load_seal_key,
    new_node_id,
)
from node.identity import statement as statement_of
from node.material import read_enrolled
from node.paths import Paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the owner asks for. node: "" for a new random id; epoch: above that of the keys that
    this id had before; gateway_issuer: PEM file, and token: for a node that joins by a token.
    """

    env: str
    mode: Literal["push", "pull"]
    domain: str
    anchor: Path
    node: str = ""
    epoch: int = 1
    listen: str = "127.0.0.1:0"
    door: str = "127.0.0.1:0"
    mirrors: Sequence[Server] = field(default_factory=tuple)
    letterbox: Server | None = None
    apps: Mapping[str, str] = field(default_factory=dict)  # app -> text of its apps.d file
    poll_s: int = 60
    gateway_issuer: Path | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Made:
    """A new node: its id, and the statement (DSSE envelope) to carry to the security team.

    fingerprint: SHA-256 of what the statement says, by which both sides compare it by voice
    """

    node: str
    root_id: str
    statement: bytes
    fingerprint: str
    path: Path


def make_node(paths: Paths, wish: Wish) -> Made:
    """Return the new node below the prefix.

    What an earlier run left that was killed is gone on with: its keys, once they are whole, are
    kept. Raises Misuse (`exists`) when there is a node already, or one that was wished otherwise.
    """
    layout.check_env(wish.env)
    anchor = read_file(wish.anchor, limit=limits.ROOT_BYTES)
    root_id = root_id_of(anchor)
    started = begun(paths, wish, root_id)
    if wish.epoch > 1 and not wish.node:
        raise Misuse("--epoch", expected="--id of the node that is made anew", got="a new id",
                     hint="its id stands in node.toml, and in the directory")  # fmt: skip
    issuer = joining_issuer(wish)
    node = started.node if started else wish.node or new_node_id()
    text = config_text(wish, node)
    for path in paths.folders():
        Folder.open(path, create=True).close()
    if started:
        seal = load_seal_key(paths).public(epoch=started.epoch)
        statement = statement_of(started, seal, clock=clock.now)
    else:
        statement = create_identity(
            paths, node=node, env=wish.env, mode=wish.mode, domain=wish.domain, root_id=root_id,
            clock=clock.now, epoch=wish.epoch,
        )  # fmt: skip
    replace_file(paths.config, paths.anchor.name, anchor, mode=0o644)
    replace_file(paths.config, paths.statement.name, statement, mode=0o644)
    if issuer is not None:
        replace_file(paths.config, paths.gateway_issuer.name, issuer, mode=0o644)
    if wish.token:
        keep_token(paths, wish.token, env=wish.env, node=node)
    for app, owned in wish.apps.items():
        replace_file(paths.apps, f"{app}.toml", owned.encode("utf-8"), mode=0o644)
    # Last: with it the node is whole.
    create_file(paths.config, paths.node_toml.name, text.encode("utf-8"), mode=0o644)
    signed = load_identity(paths).signer().public_key
    payload, _ = dsse.unseal(
        "enrolment", statement, {signed.keyid: signed}, limit=limits.STATEMENT_BYTES
    )
    return Made(node, root_id, statement, sha256_hex(payload), paths.statement)


def begun(paths: Paths, wish: Wish, root_id: str) -> Identity | None:
    """Return the identity that a run with the same wish made before it was killed, None when none.

    Raises Misuse (`exists`) for a node that was whole once, and for another wish.
    """
    once = (paths.node_toml, paths.enrolled, paths.taken)
    if any(path.exists() for path in once) or any(_inside(paths.serving)):
        raise Misuse(
            str(paths.prefix), expected="no node yet", got="a node", reason="exists",
            hint="keys are never overwritten: choose another --root; a lost node.toml comes back "
            "with `embrasure node mend`",
        )  # fmt: skip
    if not paths.identity.exists():
        return None
    found = load_identity(paths)
    asked = (root_id, wish.env, wish.mode, wish.domain, wish.epoch, wish.node or found.node)
    made = (found.root_id, found.env, found.mode, found.domain, found.epoch, found.node)
    if asked != made:
        raise Misuse(
            str(paths.prefix), expected="the arguments of the run that was cut off here",
            got="others", hint=f"it was for {found.env} {found.node}; or choose another --root",
            reason="exists",
        )  # fmt: skip
    return found


def _inside(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def joining_issuer(wish: Wish) -> bytes | None:
    """Return the gateway issuer that the node believes at first; raises Misuse, Refused.

    Only a push node is dialled, and a token is for one node id.
    """
    if wish.token and (wish.gateway_issuer is None or not wish.node or wish.mode != "push"):
        raise Misuse(
            "join token", expected="a push node with --id and --gateway-issuer", got="another",
            hint="a token is for one node id, and the gateway is dialled by nobody",
        )  # fmt: skip
    if wish.gateway_issuer is None:
        return None
    issuer = read_file(wish.gateway_issuer, limit=limits.TLS_BUNDLE_BYTES)
    load_certificates(issuer, what="gateway issuer")
    return issuer


def keep_token(paths: Paths, token: str, *, env: str, node: str) -> None:
    """The node will answer for this token; of the token itself nothing is kept.

    Raises Refused (`bad-token`).
    """
    statement = read_file(paths.statement, limit=2 * limits.STATEMENT_BYTES)
    mac = mac_of(join_key(token, env=env, node=node), statement)
    said = Answering(v=1, type="join", mac=mac, statement=sha256_hex(statement))
    replace_file(paths.config, paths.join.name, write(said), mode=0o644)


def config_text(wish: Wish, node: str) -> str:
    """Return `node.toml`; raises Misuse when a value does not fit its form."""
    values: dict[str, object] = {
        "id": node, "env": wish.env, "mode": wish.mode, "domain": wish.domain,
        "listen": wish.listen, "door": wish.door, "poll_s": wish.poll_s,
    }  # fmt: skip
    lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
    if wish.letterbox is not None:
        lines.append(f"letterbox = {_table(wish.letterbox)}")
    if wish.mirrors:
        lines.append(f"mirrors = [{', '.join(_table(one) for one in wish.mirrors)}]")
    text = "\n".join([*lines, ""])
    parse_toml(text.encode("utf-8"), NodeConfig, thing="node.toml")
    return text


def _toml(value: object) -> str:
    # A JSON string in ASCII is a TOML basic string.
    return json.dumps(value)


def _table(server: Server) -> str:
    return f"{{ name = {_toml(server.name)}, address = {_toml(server.address)} }}"


def parse_server(text: str) -> Server:
    """Return the server of `NAME=HOST:PORT`; raises Misuse."""
    name, _, address = text.partition("=")
    try:
        return msgspec.convert({"name": name, "address": address}, Server, strict=True)
    except msgspec.ValidationError:
        raise Misuse(
            "server",
            expected="NAME=HOST:PORT",
            got=text,
            hint="the name in its certificate, such as m1=10.0.0.5:7443",
        ) from None


def enrol(paths: Paths, answer: Path) -> Enrolled:
    """Return the security team's answer, which is in its place from now on.

    Who signed it is checked at the first refresh, against verified metadata: a node has none yet.
    Raises Refused when it is for another node or does not fit this node's keys.
    """
    identity = load_identity(paths)
    raw = read_file(answer, limit=limits.ENROLMENT_BYTES)
    found = read_enrolled(raw)
    check_mine(found, identity)
    replace_file(paths.config, paths.enrolled.name, raw, mode=0o644)
    return found


def check_mine(found: Enrolled, identity: Identity) -> None:
    """Return only when `found` answers this node's statement; raises Refused (`not-mine`)."""
    mine = (identity.root_id, identity.env, identity.node, identity.epoch, identity.domain)
    theirs = (found.root, found.env, found.node, found.epoch, found.tls.domain)
    for name, expected, got in zip(
        ("fleet", "environment", "node", "epoch", "domain"), mine, theirs, strict=True
    ):
        if expected != got:
            raise Refused(
                f"{name} of the enrolment answer", expected=str(expected), got=got,
                reason="not-mine",
                hint="take the answer to this node's own statement.json",
            )  # fmt: skip
    trust_of(found.tls)
    if identity.mode == "push":
        check_chain(found, identity)


def check_chain(found: Enrolled, identity: Identity) -> x509.Certificate:
    """Return the leaf of the answer's chain, which is for the key that this node made."""
    if not found.chain:
        raise Refused(
            "enrolment answer", expected="a TLS chain for a push node", got="none",
            reason="certificate",
            hint="ask for another answer: embrasure pki enrol, with `ca/node.key`",
        )  # fmt: skip
    chain = b"".join(pem_of(load_der(text, what="node certificate")) for text in found.chain)
    leaf = load_certificates(chain, what="node certificate")[0]
    boot = load_certificates(identity.boot_cert_pem, what="boot certificate")[0]
    if leaf.public_key() != boot.public_key():
        raise Refused(
            "node key",
            expected="the key of its certificate",
            got="another key",
            reason="pair",
            hint="the answer is to an older statement: carry this node's statement.json again",
        )
    return leaf
