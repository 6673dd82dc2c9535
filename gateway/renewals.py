"""Listeners' certificates are renewed by the gateway that dials them, long before they expire.

The key is made on the listener and stays there; this gateway signs, brings the chain, and counts a
renewal as done only when it has seen the new certificate shown.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from logging import getLogger

import grpc
from cryptography import x509

from embrasure import limits
from embrasure.errors import Denied, EmbrasureError, Refused, Unavailable
from embrasure.net.certificates import load_certificates, pem_of
from embrasure.net.credentials import channel
from embrasure.net.status import error_of
from embrasure.trust.directory import Entry
from embrasure.wire import renewal_pb2, renewal_pb2_grpc
from gateway import certificate_rows as inventory
from gateway import probe
from gateway.certificate_rows import Held
from gateway.library import Library
from gateway.listeners import ListenerAt, all_listeners, node_at
from gateway.parts import EngineParts

LOG = getLogger(__name__)
CALL_SECONDS = 30.0
LOOKS = 10  # at what is shown, half a second apart: a swap takes a moment
LOOK_SECONDS = 0.5


@dataclass(slots=True)
class Renewals:
    """Looks at every listener in turn; renews what is due; tells what keeps failing."""

    parts: EngineParts
    library: Library
    _room: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(limits.RENEWALS_AT_ONCE)
    )

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except EmbrasureError as problem:
                LOG.error("certificates: %s [%s]", problem, problem.word)
            await asyncio.sleep(self.parts.pace.certificates_s)

    async def look(self) -> None:
        """Every listener that is due is renewed, or its row says why it is not."""
        found, wrong = await asyncio.to_thread(all_listeners, self.parts, self.library)
        rows = await asyncio.to_thread(inventory.listed, self.parts.database)
        gone = [key for key in rows if key not in found and is_gone(wrong.get(key))]
        if gone:
            await asyncio.to_thread(inventory.forget, self.parts.database, gone)
        for key, problem in wrong.items():
            LOG.debug("%s is not dialled: %s", "/".join(key[:2]), problem)
        await asyncio.gather(*(self._one(one, rows.get(key)) for key, one in found.items()))

    async def _one(self, one: ListenerAt, held: Held | None) -> None:
        kind, name, env = one.key
        before = held or Held(kind=kind, name=name, env=env)
        at = self.parts.clock()
        rests, due = before.rests_until(), before.due()
        if due is not None and self._is_replaced(one, before):
            due = at  # its issuer goes: the sooner nobody needs it, the better
        if (rests is not None and at < rests) or (due is not None and at < due):
            return
        async with self._room:
            try:
                after = await self._seen_or_renewed(one, before, at)
            except EmbrasureError as problem:
                after = await self._failed(one, before, problem)
            await asyncio.to_thread(inventory.save, self.parts.database, after)

    def _is_replaced(self, one: ListenerAt, held: Held) -> bool:
        """Return whether another issuer than that of its leaf signs for this listener now."""
        certifier = self.parts.certifier
        if certifier is None or not certifier.holds(one.identity):
            return False
        return bool(held.issuer) and not certifier.made(one.identity, held.issuer)

    async def _seen_or_renewed(self, one: ListenerAt, before: Held, at: datetime) -> Held:
        if before.due() is None:
            # Not known yet: what is shown decides whether it is due.
            leaf = await asyncio.to_thread(probe.served, one.server(self.parts))
            found = inventory.seen(one.key, leaf, at=at)
            due = found.due()
            if due is not None and at < due:
                return found
        return await self.renew(one, issuers=one.trust.pem([one.identity.role]))

    async def _failed(self, one: ListenerAt, before: Held, problem: EmbrasureError) -> Held:
        """Return the row after a failure; two days of them are an alarm, told once."""
        told = f"{problem} [{problem.word}]"
        if await asyncio.to_thread(self._shows_boot, one):
            told = (
                "its certificate has ended and it shows its boot certificate: "
                f"embrasure fleet recover {one.identity.name} --env {one.key[2]}"
            )
        after = inventory.failed(before, told, at=self.parts.clock())
        LOG.warning("certificate of %s: %s", one.identity, told)
        if inventory.is_alarming(before, after):
            LOG.error("certificate of %s could not be renewed for two days", one.identity)
            await asyncio.to_thread(
                self.parts.journal.note, "certificate", str(one.identity), result="alarm",
                reason=told,
            )  # fmt: skip
        return after

    def _shows_boot(self, one: ListenerAt) -> bool:
        if one.entry is None or one.entry.boot_cert is None:
            return False
        leaf = probe.shown(one.address)
        return leaf is not None and probe.digest_of(leaf) == one.entry.boot_cert

    # --- one renewal --------------------------------------------------------------------------

    async def recover(self, env: str, name: str, *, actor: str) -> Held:
        """Return the row of a node that was dialled by its boot certificate and has a new one.

        Only because an operator asked: who shows the boot certificate has the key of it, and no
        more. Raises NotFound, Refused (`boot-certificate`), Unavailable, Denied.
        """
        one = await asyncio.to_thread(node_at, self.parts, self.library, env, name)
        leaf = await asyncio.to_thread(probe.shown, one.address)
        boot = check_boot(one.entry, leaf, address=one.address)
        found = await self.renew(one, issuers=pem_of(boot), actor=actor)
        await asyncio.to_thread(inventory.save, self.parts.database, found)
        return found

    async def renew(self, one: ListenerAt, *, issuers: bytes, actor: str = "") -> Held:
        """Return the row of a listener that shows a certificate made now.

        issuers: PEM of what its present certificate must chain to. Raises Denied (`no-issuer`),
        Refused, Unavailable.
        """
        certifier, journal = self.parts.certifier, self.parts.journal
        if certifier is None or not certifier.holds(one.identity):
            raise no_issuer(one)
        who = str(one.identity)
        n = await asyncio.to_thread(journal.intent, "certificate", who, actor=actor)
        try:
            leaf = await self._exchange(one, issuers)
        except EmbrasureError as problem:
            await asyncio.to_thread(journal.outcome, n, "refused", reason=str(problem))
            raise
        await asyncio.to_thread(journal.outcome, n, "ok", serial=f"{leaf.serial_number:x}")
        return inventory.seen(one.key, leaf, at=self.parts.clock())

    async def _exchange(self, one: ListenerAt, issuers: bytes) -> x509.Certificate:
        certifier = self.parts.certifier
        if certifier is None:
            raise no_issuer(one)
        key, chain_pem = self.parts.identity.client()
        who = one.identity
        async with channel(
            one.address,
            role=who.role,
            name=who.name,
            domain=one.trust.domain,
            issuer_pems=issuers,
            key=key,
            chain_pem=chain_pem,
        ) as line:
            stub = renewal_pb2_grpc.RenewalStub(line)
            try:
                asked = await stub.Csr(renewal_pb2.CsrRequest(), timeout=CALL_SECONDS)
                chain = await asyncio.to_thread(certifier.certify, who, asked.request)
                request = renewal_pb2.InstallRequest(chain=chain)
                await stub.Install(request, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as problem:
                raise error_of(problem, thing=f"{who} at {one.address}") from None
        made = load_certificates(chain, what="certificate made")[0]
        return await self._confirmed(one, made)

    async def _confirmed(self, one: ListenerAt, made: x509.Certificate) -> x509.Certificate:
        """Return the new leaf once a new connection has shown it; raises Unavailable."""
        for _ in range(LOOKS):
            leaf = await asyncio.to_thread(probe.served, one.server(self.parts))
            if leaf.serial_number == made.serial_number:
                return leaf
            await asyncio.sleep(LOOK_SECONDS)
        raise Unavailable(
            str(one.identity), expected=f"serial {made.serial_number:x} shown",
            got=f"{leaf.serial_number:x}", reason="not-swapped",
        )  # fmt: skip


def is_gone(problem: EmbrasureError | None) -> bool:
    """Return whether a listener is dialled no more: no address, or no entry; not for a while."""
    return problem is None or problem.reason == "not-enrolled"


def check_boot(
    entry: Entry | None, leaf: x509.Certificate | None, *, address: str
) -> x509.Certificate:
    """Return the boot certificate that the directory names, shown now; raises Refused."""
    if entry is None or entry.boot_cert is None:
        raise Refused("node", expected="a push node", got="one without a boot certificate")
    if leaf is None:
        raise Unavailable(f"node {entry.id}", expected=f"TLS at {address}", got="no answer")
    found = probe.digest_of(leaf)
    if found != entry.boot_cert:
        raise Refused(
            f"node {entry.id}",
            expected=f"its boot certificate {entry.boot_cert[:16]}, as the directory names it",
            got=f"certificate {found[:16]}",
            hint="a node shows it once its own has expired; a node made anew must enrol again",
            reason="boot-certificate",
        )
    return leaf


def no_issuer(one: ListenerAt) -> Denied:
    """Return the error of a gateway that cannot sign for this listener."""
    name = "node" if one.identity.role == "node" else "mirror"
    return Denied(
        f"certificate of {one.identity}",
        expected=f"the {name} issuer in gateway.toml",
        got="none",
        hint=f"embrasure gateway init with the trust folder that has ca/{name}.key, or issue by "
        "hand",
        reason="no-issuer",
    )
