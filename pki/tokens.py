"""PKCS#11 tokens: find one, find the keys in it, and say clearly what is wrong with it.

securesystemslib signs (`hsm:`); here is what stands around that: one session at a time, tokens by
label, and one clear error for a token that is absent, locked, full, or another one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pkcs11
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType, ObjectClass, TokenFlag
from pkcs11.util.ec import encode_ec_public_key
from securesystemslib.signer import SSlibKey

from embrasure import limits
from embrasure.errors import Denied, EmbrasureError, Failed, Misuse, NotFound, Refused, Unavailable
from pki import keyuri, schemes
from pki.keyuri import TokenUri

# A process is logged in to a token once, whatever its threads do: everything waits here.
LOCK = threading.Lock()
_FREED = "embrasure keys hsm list shows the tokens that are here"


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a token says of itself without a PIN. slot: where it is now; it may move."""

    label: str
    serial: str
    model: str
    slot: int
    flags: TokenFlag

    @property
    def state(self) -> str:
        """Whether its PIN can be used."""
        if TokenFlag.USER_PIN_LOCKED in self.flags:
            return "locked"
        if TokenFlag.USER_PIN_FINAL_TRY in self.flags:
            return "one try left"
        return "ready" if TokenFlag.USER_PIN_INITIALIZED in self.flags else "no PIN set"

    def as_json(self) -> dict[str, object]:
        """Return what `--json` shows."""
        return {"token": self.label, "serial": self.serial, "model": self.model, "slot": self.slot}


def facts_of(token: pkcs11.Token) -> TokenFacts:
    """Return what a token says of itself."""
    return TokenFacts(
        label=_text(token.label),
        serial=_text(token.serial),
        model=_text(token.model),
        slot=token.slot.slot_id,
        flags=token.flags,
    )


def all_tokens(module: str) -> list[pkcs11.Token]:
    """Return the initialised tokens of a PKCS#11 module; raises Misuse, Failed."""
    keyuri.check_installed("hsm")
    try:
        slots = pkcs11.lib(module).get_slots(token_present=True)[: limits.TOKENS]
        found = [slot.get_token() for slot in slots]
    except pkcs11.PKCS11Error as problem:
        raise explained(problem, f"PKCS#11 module {module}") from None
    return [token for token in found if TokenFlag.TOKEN_INITIALIZED in token.flags]


def find(uri: TokenUri) -> pkcs11.Token:
    """Return the one token that the URI names; raises Unavailable (`token-absent`), Misuse."""
    held = all_tokens(keyuri.module_of(uri))
    found = [token for token in held if uri.token in ("", _text(token.label))]
    if len(found) == 1:
        return found[0]
    labels = ", ".join(sorted(repr(_text(token.label)) for token in held)) or "none"
    if found:
        raise Misuse(
            named(uri), expected="one token", got=f"{len(found)}: {labels}",
            hint="name it: hsm:ID?label=TOKEN; two tokens need two labels", reason="token",
        )  # fmt: skip
    raise Unavailable(
        named(uri), expected="to be plugged in", got=f"these tokens: {labels}", hint=_FREED,
        reason="token-absent",
    )  # fmt: skip


def check_usable(token: pkcs11.Token, *, person: bool) -> None:
    """Return only when a PIN may be tried; raises Denied (`token-locked`, `pin`).

    person: somebody types it. A file that is wrong must not use up the last try.
    """
    flags, thing = token.flags, f"token {_text(token.label)!r}"
    if TokenFlag.USER_PIN_LOCKED in flags:
        raise locked(thing)
    if TokenFlag.USER_PIN_INITIALIZED not in flags:
        raise Denied(
            thing, expected="a token with a PIN", got="none set yet", reason="token-locked"
        )
    if TokenFlag.USER_PIN_FINAL_TRY in flags and not person:
        raise Denied(
            thing, expected="more than one try left", got="the last one before it locks",
            hint="a person types it: run a command without --passphrase-file", reason="pin",
        )  # fmt: skip


@contextlib.contextmanager
def session(
    token: pkcs11.Token, pin: bytes | None, *, write: bool = False
) -> Iterator[pkcs11.Session]:
    """Yield the only session with the token; without a PIN only public objects are in it.

    Raises Denied (`pin`, `token-locked`), Failed (`token-full`), Unavailable.
    """
    thing = f"token {_text(token.label)!r}"
    with LOCK:
        try:
            user_pin = None if pin is None else pin.decode("utf-8", errors="strict")
            with token.open(rw=write, user_pin=user_pin) as opened:
                yield opened
        except pkcs11.PKCS11Error as problem:
            raise explained(problem, thing) from None
        except UnicodeDecodeError:
            raise Misuse("PIN", expected="UTF-8", got="other bytes") from None


def read_public(opened: pkcs11.Session, number: int) -> SSlibKey:
    """Return the public half of key `number`; raises NotFound (`token-key`), Misuse, Refused."""
    found = list(
        opened.get_objects(
            {
                Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                Attribute.KEY_TYPE: KeyType.EC,
                Attribute.ID: id_bytes(number),
            }
        )
    )
    if not found:
        raise NotFound(f"key {number}", expected="an ECDSA key", got="none", reason="token-key")
    if len(found) > 1:
        raise Misuse(f"key {number}", expected="one key of this id", got=len(found), reason="token")
    return as_listed(found[0])


def as_listed(public: pkcs11.Object) -> SSlibKey:
    """Return a public key object as metadata lists it; raises Refused for another curve."""
    if not isinstance(public, pkcs11.PublicKey):
        raise Refused("key", expected="a public key", got=type(public).__name__)
    try:
        key = load_der_public_key(encode_ec_public_key(public))
    except ValueError:
        raise Refused("key", expected="an ECDSA key", got="other bytes") from None
    if not isinstance(key, EllipticCurvePublicKey):
        raise Refused("key", expected="an ECDSA key", got=type(key).__name__)
    schemes.scheme_of(key)
    return SSlibKey.from_crypto(key)


def id_bytes(number: int) -> bytes:
    """Return CKA_ID as securesystemslib looks for it: the number, big-endian, no leading zero."""
    return number.to_bytes((number.bit_length() + 7) // 8 or 1, "big")


def named(uri: TokenUri) -> str:
    """Return a token's name for a sentence."""
    return f"token {uri.token!r}" if uri.token else "token"


def explained(problem: Exception, thing: str) -> EmbrasureError:
    """Return our error for one of PKCS#11."""
    if isinstance(problem, pkcs11.PinLocked):
        return locked(thing)
    if isinstance(problem, pkcs11.PinIncorrect | pkcs11.PinInvalid | pkcs11.PinLenRange):
        return Denied(
            thing, expected="its PIN", got="another one", reason="pin",
            hint="a token locks after a few wrong PINs",
        )  # fmt: skip
    if isinstance(problem, pkcs11.DeviceMemory):
        return Failed(
            thing, expected="room for a key", got="a full token", reason="token-full",
            hint="delete a key that no metadata lists any more",
        )  # fmt: skip
    if isinstance(problem, pkcs11.TokenNotPresent | pkcs11.DeviceRemoved):
        return Unavailable(
            thing, expected="to be plugged in", got="a token that is gone", hint=_FREED,
            reason="token-absent",
        )  # fmt: skip
    if isinstance(problem, pkcs11.TokenWriteProtected | pkcs11.SessionReadOnly):
        return Denied(thing, expected="a token that can be written", got="a read-only one")
    text = str(problem)
    return Failed(
        thing, expected="an answer by PKCS#11", reason="token",
        got=f"{type(problem).__name__}{f': {text}' if text else ''}",
    )  # fmt: skip


def locked(thing: str) -> Denied:
    """Return the error for a token whose PIN was wrong too often."""
    return Denied(
        thing, expected="a PIN that still works", got="a locked one: too many wrong PINs",
        hint="unlock it with its PUK or security officer's PIN, in the token's own tool",
        reason="token-locked",
    )  # fmt: skip


def _text(raw: str | bytes) -> str:
    text = raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else raw
    return text.strip("\0 ")
