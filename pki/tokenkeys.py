"""Keys in a token: open one to sign, make one, and check that it can never leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pkcs11
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters
from securesystemslib.signer import HSMSigner, SSlibKey

from embrasure import kits
from embrasure.errors import Denied, Failed, NotFound, Refused
from pki import keyuri, schemes, tokens
from pki.checked import CheckedSigner
from pki.keyuri import TokenUri
from pki.passphrase import PassphraseSource, pin_of
from pki.tokens import TokenFacts

kits.take_in("hsm")  # the signer below is made of it

_CURVES = {"ecdsa-p256": "secp256r1", "ecdsa-p384": "secp384r1"}
_MADE_WITH: Mapping[Attribute, bool] = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
# What makes a key one of this token alone (checked after it was made, and when it is exported).
_NEVER_LEAVES = {
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.NEVER_EXTRACTABLE: True,
}


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key in a token: where it is, and its public half."""

    uri: TokenUri
    public: SSlibKey
    token: TokenFacts


def public_at(uri: TokenUri) -> TokenKey:
    """Return the key at `uri` as the token shows it without a PIN; raises NotFound, Unavailable."""
    token = tokens.find(uri)
    with tokens.session(token, None) as opened:
        return TokenKey(uri, tokens.read_public(opened, uri.id), tokens.facts_of(token))


def public_keys(token: pkcs11.Token) -> dict[int, SSlibKey]:
    """Return the usable ECDSA keys of a token that can be seen without a PIN, by id."""
    found: dict[int, SSlibKey] = {}
    with tokens.session(token, None) as opened:
        wanted = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.KEY_TYPE: KeyType.EC}
        for item in opened.get_objects(wanted):
            try:
                found[int.from_bytes(item[Attribute.ID], "big")] = tokens.as_listed(item)
            except (Refused, pkcs11.PKCS11Error):
                continue
    return dict(sorted(found.items()))


def open_signer(
    uri: TokenUri, public: SSlibKey, passphrase: Callable[[str], bytes]
) -> CheckedSigner:
    """Return the signer of the key at `uri`, its PIN tried once; raises Denied, Unavailable.

    The PIN stays in memory: the token asks for it at every signature.
    """
    token = tokens.find(uri)
    pin = log_in(token, uri, passphrase, public)
    module = keyuri.module_of(uri)
    inner = _Pinned(uri, public, pin, module)
    thing = tokens.named(uri)
    return CheckedSigner(
        inner, public, explain=lambda problem: tokens.explained(problem, thing), lock=tokens.LOCK
    )


def log_in(
    token: pkcs11.Token,
    uri: TokenUri,
    passphrase: Callable[[str], bytes],
    public: SSlibKey | None,
) -> bytes:
    """Return the PIN, which the token has taken; with `public`, the key's private half is there.

    Raises Denied (`pin`, `token-locked`), NotFound (`token-key`), Refused (`other-key`).
    """
    tries = passphrase.tries if isinstance(passphrase, PassphraseSource) else 1
    tries = 1 if uri.pin_source else tries
    while True:
        tries -= 1
        tokens.check_usable(token, person=tries > 0)
        pin = pin_of(uri.pin_source, passphrase, f"PIN of {tokens.named(uri)}")
        try:
            with tokens.session(token, pin) as opened:
                if public is not None:
                    check_there(opened, uri.id, public)
            return pin
        except Denied as problem:
            if problem.reason != "pin" or tries <= 0:
                raise


def check_there(opened: pkcs11.Session, number: int, public: SSlibKey) -> None:
    """Return only when the token holds the key and it can never leave; raises Refused, NotFound."""
    private = private_key(opened, number)
    check_never_leaves(private)
    try:
        shown = tokens.read_public(opened, number)
    except NotFound:
        return  # Some tokens show no public object; the first signature will tell.
    if shown.keyid != public.keyid:
        raise Refused(
            f"key {number} of the token",
            expected=f"the key {public.keyid[:16]}",
            got=f"another, {shown.keyid[:16]}",
            hint="the token was made anew; export its public half again",
            reason="other-key",
        )


def private_key(opened: pkcs11.Session, number: int) -> pkcs11.PrivateKey:
    """Return the private half of key `number` by handle; raises NotFound."""
    wanted = {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY,
        Attribute.KEY_TYPE: KeyType.EC,
        Attribute.ID: tokens.id_bytes(number),
    }
    for found in opened.get_objects(wanted):
        if isinstance(found, pkcs11.PrivateKey):
            return found
    raise NotFound(f"key {number}", expected="its private half", got="none", reason="token-key")


def check_never_leaves(private: pkcs11.PrivateKey) -> None:
    """Return only when nobody can read the key out of its token; raises Refused (`extractable`)."""
    for attribute, wanted in _NEVER_LEAVES.items():
        try:
            found = private[attribute]
        except pkcs11.PKCS11Error:
            found = None
        if found is not wanted:
            raise Refused(
                "key in the token",
                expected=f"{attribute.name} {str(wanted).lower()}",
                got=str(found).lower(),
                hint="make the key inside the token: one that was outside may have a copy",
                reason="extractable",
            )


def generate(
    uri: TokenUri,
    *,
    scheme: str,
    label: str,
    passphrase: Callable[[str], bytes],
    template: Mapping[Attribute, bool] = _MADE_WITH,
) -> TokenKey:
    """Return a new key, made in the token and unable to leave it.

    template: what the token is asked for; what it gave is checked
    Raises Misuse (`exists`), Failed (`token-full`), Refused (`extractable`: then no key stays).
    """
    if scheme not in _CURVES:
        raise Refused("key in a token", expected=" or ".join(_CURVES), got=scheme)
    token = tokens.find(uri)
    pin = log_in(token, uri, passphrase, None)
    with tokens.session(token, pin, write=True) as opened:
        number = tokens.id_bytes(uri.id)
        if list(opened.get_objects({Attribute.ID: number})):
            raise Refused(
                f"key {uri.id} of {tokens.named(uri)}", expected="a free id", got="a key",
                hint="--id N takes another; embrasure keys hsm list shows those taken",
                reason="exists",
            )  # fmt: skip
        curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVES[scheme])}
        domain = opened.create_domain_parameters(KeyType.EC, curve, local=True)
        public, private = domain.generate_keypair(
            id=number,
            label=label,
            store=True,
            capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
            private_template=dict(template),
        )
        try:
            check_never_leaves(private)
            made = tokens.as_listed(public)
        except (Refused, pkcs11.PKCS11Error):
            private.destroy()
            public.destroy()
            raise
    schemes.written(made)
    return TokenKey(uri, made, check_kept(uri, made, pin))


def check_kept(uri: TokenUri, made: SSlibKey, pin: bytes) -> TokenFacts:
    """Return the token's facts when the new key is in it after it was opened anew; raises Failed.

    SoftHSM with a full disk says that it made a key, and keeps none (measured).
    """
    pkcs11.lib(keyuri.module_of(uri)).reinitialize()
    token = tokens.find(uri)
    try:
        with tokens.session(token, pin) as opened:
            check_there(opened, uri.id, made)
            tokens.read_public(opened, uri.id)
    except (NotFound, Refused, Failed) as problem:
        raise Failed(
            tokens.named(uri), expected="to have kept the new key",
            got=f"a full or a broken one ({problem})",
            untouched="no public half was written: nothing can count on this key",
            hint="make room, take another --id, and make the key again", reason="token-full",
        ) from None  # fmt: skip
    return tokens.facts_of(token)


class _Pinned(HSMSigner):
    """securesystemslib's signer, told where the module and the PIN are."""

    def __init__(self, uri: TokenUri, public: SSlibKey, pin: bytes, module: str) -> None:
        super().__init__(uri.id, public, lambda _: pin.decode("utf-8"), uri.token or None)
        self._module = module

    def _find_token(self, token_label: str | None = None) -> pkcs11.Token:  # type: ignore[override]  # static there; here it knows the library
        return tokens.find(TokenUri(self.hsm_keyid, token_label or "", self._module))
