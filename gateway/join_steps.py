"""A keyholder's meeting with a new node through a gateway that is believed nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from embrasure.clock import Clock
from embrasure.wire import admin_pb2 as wire
from gateway.client import AdminClient
from pki import joining
from pki.enrol import Checked
from pki.folder import TrustFolder


@dataclass(frozen=True, slots=True)
class Met:
    """A node whose token and keys were checked here. leaf: its boot certificate, PEM."""

    env: str
    node: str
    checked: Checked
    leaf: bytes


def meet(client: AdminClient, trust: TrustFolder, env: str, node: str, *, clock: Clock) -> Met:
    """Return the node once it has answered for its token and for both of its keys.

    Steps: 1 what the gateway read at the address, 2 MAC and statement, under the folder's lock,
    3 the certificate there is the statement's, 4 a fresh challenge, answered on the same
    certificate, 5 the gateway in between is one of ours. Raises Denied, Refused, Unavailable.
    """
    # 1.
    said: wire.JoinReply = client.call("JoinStatement", wire.NodeRequest(env=env, node=node))
    # 2.
    with trust.lock():
        checked = joining.accept(trust, env, node, said.body, said.mac, clock=clock)
    # 3.
    joining.check_shown(checked, said.leaf)
    # 4.
    asked = joining.challenge(trust, checked)
    request = wire.JoinRequest(env=env, node=node, leaf=said.leaf, body=asked.raw)
    proved: wire.JoinReply = client.call("JoinProve", request)
    # 5.
    gateway = joining.check_gateway(trust, env, proved.gateway, at=clock())
    joining.check_proof(proved.body, asked, checked, statement=said.body, gateway=gateway)
    return Met(env, node, checked, said.leaf)


def send_answer(client: AdminClient, met: Met, answer: bytes, files: Mapping[str, bytes]) -> None:
    """The node has taken its answer. files: the trust files by which it verifies it."""
    head = wire.JoinPart(env=met.env, node=met.node, leaf=met.leaf, body=answer)
    rest = (wire.JoinPart(path=path, body=raw) for path, raw in files.items())
    client.upload("JoinAnswer", itertools.chain([head], rest))
