"""The gateway's online signers: of the keys it was given, the one that the metadata names.

While a key is rotated the gateway holds the old and the new one. Which of them signs is no setting:
the root and targets files of the very publication say so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from securesystemslib.signer import Signer

from embrasure.errors import Denied
from embrasure.trust import layout
from gateway.config import FILE, read_config
from gateway.config import Online as Uris
from pki.passphrase import PassphraseSource
from pki.signers import facts_of, open_bound, within


class OnlineKeys(Protocol):
    """Whoever signs the online roles."""

    @property
    def environments(self) -> Collection[str]:
        """The environments whose gates are signed here."""
        ...

    def signer(self, role: str, named: Collection[str] | None) -> Signer:
        """Return the signer of an online role; raises Denied when there is none that counts.

        named: ids of the keys that may sign it, None when that is not known
        """
        ...


@dataclass(frozen=True, slots=True)
class Online:
    """One signer a role, fixed; gates: by environment."""

    snapshot: Signer
    timestamp: Signer
    gates: Mapping[str, Signer]

    @property
    def environments(self) -> Collection[str]:
        """The environments with a gate key."""
        return self.gates.keys()

    def signer(self, role: str, named: Collection[str] | None) -> Signer:
        """Return the one signer of `role`, whatever is named: who verifies next refuses a wrong
        one. Raises Denied.
        """
        known = {layout.SNAPSHOT: self.snapshot, layout.TIMESTAMP: self.timestamp}
        found = known.get(role) or self.gates.get(role.removeprefix("gates-"))
        if found is None:
            raise no_key(role)
        return found


class Keyring:
    """The keys that `gateway.toml` names, also when they were brought while the gateway runs.

    Any thread may ask. A key that was brought later is opened when it is needed first.
    """

    def __init__(self, folder: Path, passphrase: Callable[[str], bytes], *, root: str) -> None:
        self._folder, self._root = folder, root
        self._passphrase = remembering(passphrase)
        self._read: tuple[tuple[int, int], Uris] | None = None
        self._open: dict[str, Signer] = {}
        self._lock = threading.Lock()

    @property
    def _uris(self) -> Uris:
        """What `gateway.toml` names now: `gateway init` may have brought a key meanwhile."""
        found = (self._folder / FILE).stat()
        version = (found.st_ino, found.st_mtime_ns)
        if self._read is None or self._read[0] != version:
            self._read = (version, read_config(self._folder).online)
        return self._read[1]

    @property
    def environments(self) -> Collection[str]:
        """The environments with a gate key."""
        return self._uris.gates.keys()

    def open_all(self) -> None:
        """Every key is open: a wrong passphrase shows at the start. Raises Denied, Refused."""
        with self._lock:
            for uri in self._uris.uris():
                self._opened(uri)

    def signer(self, role: str, named: Collection[str] | None) -> Signer:
        """Return the signer of `role` whose key is named; raises Denied (`no-online-key`)."""
        with self._lock:
            found = self._find(role, named)
            if found is None:
                raise no_key(role)
            return found

    def _find(self, role: str, named: Collection[str] | None) -> Signer | None:
        for uri in uris_of(self._uris, role):
            # Only what is named is opened: a key that was given and not yet published waits.
            if named is None or facts_of(within(uri, self._folder)).keyid in named:
                return self._opened(uri)
        return None

    def _opened(self, uri: str) -> Signer:
        if uri not in self._open:
            self._open[uri] = open_bound(
                within(uri, self._folder), self._passphrase, purpose="online", root=self._root
            )
        return self._open[uri]


def uris_of(online: Uris, role: str) -> tuple[str, ...]:
    """Return the URIs of the keys that were given for an online role."""
    if role == layout.SNAPSHOT:
        found: str | Iterable[str] = online.snapshot
    elif role == layout.TIMESTAMP:
        found = online.timestamp
    else:
        found = online.gates.get(role.removeprefix("gates-"), ())
    return (found,) if isinstance(found, str) else tuple(found)


def remembering(passphrase: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """Return a source that asks once: a new key opens later with what opened the first ones.

    The process holds the keys that the passphrase opens anyhow.
    """
    known: list[bytes] = []

    def ask(what: str) -> bytes:
        if not known:
            known.append(passphrase(what))
        return known[0]

    # A person may mistype the first one.
    if isinstance(passphrase, PassphraseSource) and passphrase.tries > 1:
        return passphrase
    return ask


def check_environment(keys: OnlineKeys, env: str) -> None:
    """Return only when the gates of `env` are signed here; raises Denied (`no-gate-key`)."""
    if env not in keys.environments:
        raise Denied(
            f"environment {env}",
            expected=f"a key for {layout.gates_role(env)}",
            got="none in gateway.toml",
            reason="no-gate-key",
        )


def no_key(role: str) -> Denied:
    """Return the error of an online role that cannot be signed here."""
    return Denied(
        role,
        expected="a key of this gateway that root and targets name",
        got="none",
        untouched="what is published stays published",
        hint="give it the new key first: embrasure gateway init GATEWAY --trust DIR",
        reason="no-online-key",
    )
