"""Real nodes in a simulated fleet: made and enrolled as a person would, in folders of a test.

The repository, the certificate authority and the gateway's keys are in memory; the node's own keys
are made by the product and stay in its folder.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nacl.signing import SigningKey

from embrasure import limits
from embrasure.bundle.manifest import Manifest, parse_manifest
from embrasure.clock import write_time
from embrasure.net.certificates import load_certificates
from embrasure.net.identity import dns_name
from embrasure.trust import dsse, layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.directory import Enrolled, Floors, TlsBundle
from embrasure.trust.documents import digest, write
from embrasure.trust.gate import Gate
from embrasure.trust.order import Order
from embrasure.trust.plan import Plan
from embrasure.wire.node_pb2 import Awaited
from node.config import Server
from node.identity import load_identity, load_seal_key, load_tls_key
from node.paths import Paths
from node.setup import Wish, enrol, make_node
from tests.simulate.authority import BACKDATE, Authority, der_text
from tests.simulate.installer import SERVER, quick_http
from tests.simulate.nodes import SimNode, fixed_node_id
from tests.simulate.push import SimGateway
from tests.simulate.releases import SimRelease, make_release
from tests.simulate.repository import SimRepository

ENV, APP, GATEWAY = "dev", "shop", "g1"


@dataclass(frozen=True, slots=True)
class RealNode:
    """A node of the product in its folder, and how the directory lists it."""

    paths: Paths
    listed: SimNode

    @property
    def id(self) -> str:
        """The node's id."""
        return self.listed.id

    @property
    def receipt_key(self) -> bytes:
        """The public key of its receipts."""
        return bytes(self.listed.signing.verify_key)

    @property
    def port(self) -> int:
        """Where the running push node listens."""
        return int(json.loads((self.paths.net / "ports.json").read_text())["push"])


class SimFleet:
    """One repository, one authority, and the nodes that were made in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.repository = SimRepository(ENV)
        self.repository.set_bundle(self.bundle())
        self.repository.add_app(APP)
        self.repository.publish()
        self.nodes: list[RealNode] = []
        self._oseq = 0

    def bundle(self) -> TlsBundle:
        """Return the TLS bundle of the authority."""
        members = {"v": 1, "type": "tls", "root": self.repository.root_id, "env": ENV}
        found = {**members, **self.authority.tls_members(), "gateways": (GATEWAY,)}
        return TlsBundle(**found)  # type: ignore[arg-type]  # members by name

    def make(
        self,
        name: str,
        *,
        mode: Literal["push", "pull"] = "push",
        port: int,
        mirrors: tuple[Server, ...] = (),
        letterbox: Server | None = None,
        aged: timedelta = timedelta(),
    ) -> RealNode:
        """Return a new enrolled node whose owner lets the app run on `port`.

        aged: how long ago it was enrolled, by its certificate
        """
        prefix = self.folder / name
        paths, anchor = Paths(prefix), self.folder / "anchor.json"
        anchor.write_bytes(self.repository.anchor)
        wish = Wish(
            env=ENV, mode=mode, domain=self.authority.domain, anchor=anchor, mirrors=mirrors,
            letterbox=letterbox, poll_s=1, node=fixed_node_id(len(self.nodes)),
        )  # fmt: skip
        make_node(paths, wish)
        (paths.apps / f"{APP}.toml").write_text(
            f'ports = {{ web = {port} }}\ninterpreters = {{ python3 = "/usr/bin/python3" }}\n'
        )
        node = RealNode(paths, listed(paths))
        self.nodes.append(node)
        self.repository.add_node(node.listed)
        self.repository.publish()
        answer = self.folder / f"{name}.enrolled.json"
        answer.write_bytes(self.enrolled(node, aged=aged))
        enrol(paths, answer)
        return node

    def enrolled(self, node: RealNode, *, aged: timedelta = timedelta()) -> bytes:
        """Return the security team's signed answer to a node's statement."""
        repository, identity = self.repository, load_identity(node.paths)
        chain: tuple[str, ...] = ()
        if identity.mode == "push":
            key = serialization.load_pem_private_key(load_tls_key(node.paths), None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise TypeError("a node's TLS key is P-256")
            leaf = self.authority.leaf("node", node.id, key=key, starts=-aged - BACKDATE)
            issuer = self.authority.issuers["node"].certificate
            chain = (der_text(leaf.certificate), der_text(issuer))
        answer = Enrolled(
            v=1, type="enrolled", root=repository.root_id, env=ENV, node=node.id, epoch=1,
            floors=Floors(
                root=1,
                targets=repository.versions[layout.TARGETS],
                fleet=repository.versions[layout.fleet_role(ENV)],
                revocations=repository.versions[layout.REVOCATIONS],
                seq={},
                time=write_time(repository.clock() - timedelta(hours=1)),
            ),
            tls=self.bundle(), chain=chain,
        )  # fmt: skip
        return dsse.seal("enrolled", write(answer), repository.holders[0])

    def publish(
        self,
        node: RealNode,
        version: str,
        *,
        mode: str = "good",
        extra: bytes = b"",
        soak_s: int = 0,
        also: Sequence[RealNode] = (),
        seq: int | None = None,
        change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    ) -> tuple[Plan, Gate]:
        """Return plan and open gate of a release of a small web server, `node` as its canary.

        mode: what the server does (`tests.simulate.installer.SERVER`); extra: one more file; also:
        further canaries; seq: the plan's number, default the next one; change: of the manifest
        """
        files = {
            "code/main.py": SERVER,
            "config/mode": mode.encode(),
            "config/version": version.encode(),
            **({"code/data": extra} if extra else {}),
        }
        made = make_release(
            APP, files, version=version, argv=("python3", "code/main.py"), probes=[quick_http()]
        )
        raw = write(change(made.manifest))
        changed = SimRelease(parse_manifest(raw), raw, sha256_hex(raw), made.blobs)
        release = self.repository.add_release(APP, release=changed)
        canary = [one.listed for one in (node, *also)]
        plan = self.repository.set_plan(release, canary=canary, soak_s=soak_s, seq=seq)
        gate = self.repository.set_gate(plan)
        self.repository.publish()
        return plan, gate

    def gateway(self, node: RealNode) -> SimGateway:
        """Return a gateway that dials `node` and serves what is published now."""
        return SimGateway(
            self.authority, self.repository.files, port=node.port, node=node.id,
            confirm=lambda awaited: self.confirmation(node, awaited),
        )  # fmt: skip

    def confirmation(self, node: RealNode, awaited: Awaited, **changes: object) -> bytes:
        """Return the gateway's signed word that what `node` wants confirmed stays."""
        members = {
            "action": "confirm", "plan": awaited.plan, "tx": awaited.tx,
            "node_nonce": awaited.nonce, **changes,
        }  # fmt: skip
        return self._signed(node, app=awaited.app, gate="0" * 64, **members)

    def order(self, node: RealNode, plan: Plan, gate: Gate, *, oseq: int | None = None) -> bytes:
        """Return the gateway's signed order for `node`, with the next number."""
        return self._signed(
            node, app=plan.app, plan=digest(plan), gate=digest(gate), action="apply", tx=None,
            node_nonce=None, oseq=oseq or self._oseq + 1,
        )  # fmt: skip

    def _signed(self, node: RealNode, **members: object) -> bytes:
        self._oseq = int(str(members.get("oseq", self._oseq + 1)))
        at = self.repository.clock()
        common = {
            "v": 1, "type": "order", "root": self.repository.root_id, "env": ENV, "node": node.id,
            "node_epoch": 1, "oseq": self._oseq, "nonce": secrets.token_hex(16),
            "issued": write_time(at),
            "expires": write_time(at + timedelta(seconds=limits.ORDER_SECONDS)),
        }  # fmt: skip
        order = Order(**{**common, **members})  # type: ignore[arg-type]  # members by name
        signer = self.repository.signers[layout.gates_role(ENV)][0]
        return dsse.seal("order", write(order), signer)


def listed(paths: Paths) -> SimNode:
    """Return the directory's view of the node in `paths`, with its own keys."""
    identity = load_identity(paths)
    boot = None
    if identity.boot_cert_pem:
        boot = load_certificates(identity.boot_cert_pem, what="boot certificate")[0]
    return SimNode(
        id=identity.node,
        tls_name=dns_name("node", identity.node, identity.domain) if boot else None,
        boot_cert=boot.fingerprint(hashes.SHA256()).hex() if boot else None,
        env=identity.env,
        mode=identity.mode,
        signing=SigningKey(bytes(identity.receipt_key)),
        seal=load_seal_key(paths),
    )
