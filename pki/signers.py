"""Open a private key by its URI: code above this module never sees key bytes.

One back end for now: `keyfile:PATH`. An ECDSA P-256 signer also serves as a CA key (`SignerKey`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from securesystemslib.signer import Signer

from embrasure import fs, limits
from embrasure.errors import Denied, EmbrasureError, Misuse, NotSupported, Refused
from pki import keyfile
from pki.passphrase import PassphraseSource

_LATER = frozenset({"hsm", "awskms", "azurekms", "gcpkms", "hv", "sigstore", "gnupg"})
Buffer = bytes | bytearray | memoryview
_NEVER = frozenset({"file", "file2", "envvar"})  # private keys in the clear


def keyfile_path(uri: str) -> Path:
    """Return the path of a `keyfile:` URI; raises NotSupported, Misuse for any other."""
    scheme, found, path = uri.partition(":")
    if found and scheme == "keyfile" and path:
        return Path(path)
    if found and scheme in _LATER:
        raise NotSupported("key", expected="keyfile:PATH", got=f"{scheme}:")
    if found and scheme in _NEVER:
        raise Denied(
            "key",
            expected="an encrypted key file",
            got=f"a key in the clear ({scheme}:)",
            hint="make one with `embrasure keys generate`",
        )
    raise Misuse("key", expected="a URI such as keyfile:PATH", got=uri)


def as_uri(text: str) -> str:
    """Return the signer URI that a command line means: a plain path is a key file."""
    scheme, found, _ = text.partition(":")
    is_uri = bool(found) and (scheme == "keyfile" or scheme in _LATER or scheme in _NEVER)
    return text if is_uri else f"keyfile:{text}"


def within(uri: str, folder: Path) -> str:
    """Return `uri` with a relative path read from `folder`, where the file that names it lies."""
    return f"keyfile:{os.path.normpath(folder / keyfile_path(uri))}"


def open_key(
    uri: str,
    passphrase: Callable[[str], bytes],
    *,
    purpose: keyfile.Purpose | None = None,
    root: str | None = None,
) -> keyfile.Opened:
    """Return the key at `uri` when it serves `purpose` in the fleet `root`.

    root: id of the fleet; a key not yet bound to one passes. Raises Denied, Refused, Misuse.
    """
    path = keyfile_path(uri)
    raw = fs.read_file(path, limit=limits.KEYFILE_BYTES, private=True)
    header = keyfile.parse(raw)
    check_use(header, purpose=purpose, root=root)
    tries = passphrase.tries if isinstance(passphrase, PassphraseSource) else 1
    for left in reversed(range(tries)):
        try:
            return keyfile.open_bytes(raw, passphrase(f"passphrase of {header.label} ({path})"))
        except Denied as problem:
            if problem.reason != "passphrase" or left == 0:
                raise
    raise Denied(f"key file of {header.label}", expected="its passphrase", got="none")


def open_signer(
    uri: str,
    passphrase: Callable[[str], bytes],
    *,
    purpose: keyfile.Purpose | None = None,
    root: str | None = None,
) -> Signer:
    """Return the signer at `uri`; see `open_key`."""
    return open_key(uri, passphrase, purpose=purpose, root=root).signer


def check_use(header: keyfile.Header, *, purpose: str | None, root: str | None) -> None:
    """Return only when a key serves this purpose in this fleet; raises Denied.

    TUF metadata is not bound to a repository: a key that served two would let signatures of one
    count in the other (X41 audit of go-tuf, 2023).
    """
    if purpose is not None and header.purpose != purpose:
        raise Denied(
            f"key of {header.label}",
            expected=f"a key made for `{purpose}`",
            got=f"one made for `{header.purpose}`",
            hint=f"embrasure keys generate NAME --purpose {purpose}",
            reason="key-purpose",
        )
    if root is not None and header.root not in ("", root):
        raise Denied(
            f"key of {header.label}",
            expected=f"a key of fleet {root[:16]}",
            got=f"a key of fleet {header.root[:16]}",
            hint="a key serves one fleet; make a new one for this fleet",
            reason="key-root",
        )


def bind(uri: str, opened: keyfile.Opened, root: str) -> bool:
    """Return whether the key file now says that it serves the fleet `root` and no other.

    False when it said so already. The same passphrase, salt and cost stay.
    """
    header = opened.header
    if header.root == root:
        return False
    check_use(header, purpose=None, root=root)
    path = keyfile_path(uri)
    raw = keyfile.rebind(opened, root)
    fs.replace_file(path.parent, path.name, raw)
    return True


class SignerKey(ec.EllipticCurvePrivateKey):
    """An ECDSA P-256 signer as the private key of a certificate authority."""

    def __init__(self, signer: Signer) -> None:
        if signer.public_key.scheme != "ecdsa-sha2-nistp256":
            raise Refused("certificate key", expected="ECDSA P-256", got=signer.public_key.scheme)
        self._signer = signer
        pem = str(signer.public_key.keyval["public"]).encode("ascii")
        public = serialization.load_pem_public_key(pem)
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise Refused("certificate key", expected="ECDSA P-256", got=type(public).__name__)
        self._public = public

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return a DER signature over `data`; SHA-256 only, and never over a bare digest."""
        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, Prehashed) or not isinstance(algorithm, hashes.SHA256):
            raise Refused("certificate key", expected="SHA-256 over the data", got="another form")
        return bytes.fromhex(self._signer.sign(bytes(data)).signature)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public half."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve, P-256."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Bits of the key."""
        return self._public.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Raises: this key signs certificates and does nothing else."""
        raise _only_signs()

    def private_numbers(self) -> NoReturn:
        """Raises: key bytes stay behind the signer."""
        raise _only_signs()

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> NoReturn:
        """Raises: key bytes stay behind the signer."""
        raise _only_signs()

    def __copy__(self) -> SignerKey:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> SignerKey:
        return self


def _only_signs() -> EmbrasureError:
    return Denied("certificate key", expected="to sign only", got="a call for its bytes")
