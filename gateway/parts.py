"""What the roll-out engine works with, and how fast it looks at things."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from nacl.public import PrivateKey

from embrasure import limits
from embrasure.clock import Clock, now
from gateway.audit import Journal
from gateway.certifying import Certifier
from gateway.database import Database
from gateway.proposals import Proposals
from gateway.repository import Repository


class Identity(Protocol):
    """Who this gateway is when it dials; renewed by whoever made it."""

    def client(self) -> tuple[bytes | EllipticCurvePrivateKey, bytes]:
        """Return key and certificate chain, valid now: PEM, or a key that signs where it lies."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds between looks; tests and the demo are faster, never different."""

    tick_s: float = 0.5
    wait_s: float = 2.0  # a node said wait, or is busy
    hold_s: float = 60.0  # a person must act first
    redial_s: float = limits.REDIAL_SECONDS
    redial_max_s: float = limits.REDIAL_MAX_SECONDS
    dial_s: float = limits.DIAL_SECONDS
    recheck_s: float = limits.RECHECK_SECONDS  # whether whom we talk to is still believed
    collect_s: float = limits.COLLECT_SECONDS
    collect_idle_s: float = limits.COLLECT_IDLE_SECONDS
    renew_s: float = 600.0
    tell_s: float = 1.0  # between looks at what push nodes were not told yet
    certificates_s: float = 60.0  # between looks at listeners' certificates
    republish_s: float = 1.0  # first pause before a mirror is tried again; doubles to 60


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParts:
    """Everything the engine is given. collect_key: opens what nodes seal for us, None without;
    certifier: signs for listeners, None when the gateway holds no issuer of theirs.
    """

    name: str
    database: Database
    journal: Journal
    repository: Repository
    proposals: Proposals
    identity: Identity
    collect_key: PrivateKey | None = None
    certifier: Certifier | None = None
    clock: Clock = now
    pace: Pace = field(default_factory=Pace)

    def unix(self) -> int:
        """Return the time in Unix seconds."""
        return int(self.clock().timestamp())
