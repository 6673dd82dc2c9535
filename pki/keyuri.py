"""Signer URIs: which back end holds a key, and what must be installed to reach it.

A URI never holds a secret. `hsm:` takes the attributes of RFC 7512 that it needs, and no PIN.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlencode

from embrasure import kits, limits
from embrasure.errors import Denied, Misuse, NotSupported
from embrasure.fs import check_unshared

Backend = Literal["keyfile", "keyrecord", "hsm", "awskms", "azurekms", "gcpkms", "hv"]
BACKENDS: tuple[Backend, ...] = (
    "keyfile", "keyrecord", "hsm", "awskms", "azurekms", "gcpkms", "hv",
)  # fmt: skip
_FILES = ("keyfile", "keyrecord")  # their URIs are paths
_NEVER = frozenset({"file", "file2", "envvar"})  # private keys in the clear
_OTHERS = frozenset({"sigstore", "gnupg", "tkey"})  # securesystemslib has them, we do not
# back end -> our extra, and a module that it brings
_EXTRAS: dict[Backend, tuple[str, str]] = {
    "hsm": ("pkcs11", "pkcs11"),
    "awskms": ("awskms", "boto3"),
    "azurekms": ("azurekms", "azure.keyvault.keys"),
    "gcpkms": ("gcpkms", "google.cloud.kms"),
    "hv": ("vault", "hvac"),
}
_FIRST_ID = 2  # of securesystemslib's `hsm:`: slot 9c of a YubiKey
MODULE_VARIABLES = ("EMBRASURE_PKCS11_MODULE", "PYKCS11LIB")


def backend_of(uri: str) -> Backend:
    """Return which back end a URI names; raises Denied for keys in the clear, Misuse."""
    scheme, found, rest = uri.partition(":")
    if len(uri) > limits.KEY_URI_CHARACTERS or not uri.isprintable():
        raise Misuse("key", expected=f"a URI of {limits.KEY_URI_CHARACTERS} characters", got=uri)
    if found and scheme in _NEVER:
        raise Denied(
            "key",
            expected="an encrypted key file, a token or a key service",
            got=f"a key in the clear ({scheme}:)",
            hint="make one with `embrasure keys generate`",
        )
    if found and scheme in _OTHERS:
        raise NotSupported("key", expected=f"one of {', '.join(BACKENDS)}", got=f"{scheme}:")
    for backend in BACKENDS:
        if found and scheme == backend and (rest or backend == "hsm"):
            return backend
    raise Misuse("key", expected="a URI such as keyfile:PATH or hsm:2?label=TOKEN", got=uri)


def as_uri(text: str) -> str:
    """Return the signer URI that a command line means: a plain path is a key file."""
    scheme, found, _ = text.partition(":")
    known = scheme in BACKENDS or scheme in _NEVER or scheme in _OTHERS
    return text if found and known else f"keyfile:{text}"


def keyfile_path(uri: str) -> Path:
    """Return the path of a `keyfile:` URI; raises Misuse, Denied for any other."""
    if backend_of(uri) != "keyfile":
        raise Misuse("key", expected="keyfile:PATH", got=uri)
    return Path(uri.partition(":")[2])


def record_path(uri: str) -> Path:
    """Return the path of a `keyrecord:` URI: a record of a key that lies elsewhere."""
    if backend_of(uri) != "keyrecord":
        raise Misuse("key", expected="keyrecord:PATH", got=uri)
    return Path(uri.partition(":")[2])


def within(uri: str, folder: Path) -> str:
    """Return `uri` with a relative path read from `folder`, where the file that names it lies."""
    backend = backend_of(uri)
    if backend not in _FILES:
        return uri
    return f"{backend}:{os.path.normpath(folder / uri.partition(':')[2])}"


def check_installed(backend: Backend) -> None:
    """Return only when the libraries of a back end are there, and loaded; raises Misuse, with
    what to run.
    """
    if backend not in _EXTRAS:
        return
    extra, module = _EXTRAS[backend]
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise Misuse(
            f"{backend}: keys",
            expected=f"the `{extra}` extra",
            got=f"no module {module}",
            hint=f"pip install 'embrasure[{extra}]'",
            reason="extra",
        )
    kits.take_in(backend)


@dataclass(frozen=True, slots=True)
class TokenUri:
    """An `hsm:` URI. id: of the key object; token: label of the token, empty for the only one.

    module: the PKCS#11 library; pin_source: file that holds the PIN; both may be empty
    """

    id: int = _FIRST_ID
    token: str = ""
    module: str = ""
    pin_source: str = ""

    @property
    def plain(self) -> str:
        """The URI of this key alone, without where the library and the PIN are."""
        return f"hsm:{self.id}" + (f"?{urlencode({'label': self.token})}" if self.token else "")

    def __str__(self) -> str:
        named = {"label": self.token, "module-path": self.module, "pin-source": self.pin_source}
        query = urlencode({name: value for name, value in named.items() if value}, safe="/")
        return f"hsm:{self.id}" + (f"?{query}" if query else "")


def parse_token(uri: str) -> TokenUri:
    """Return what an `hsm:[ID][?label=..&module-path=..&pin-source=..]` means; raises Misuse.

    Raises Denied for a PIN in the URI: other processes read command lines.
    """
    if backend_of(uri) != "hsm":
        raise Misuse("key", expected="hsm:ID?label=TOKEN", got=uri)
    number, _, query = uri.removeprefix("hsm:").partition("?")
    try:
        given = parse_qsl(query, strict_parsing=bool(query), max_num_fields=4, errors="strict")
    except ValueError:
        given = [("", "")]
    names = [name for name, _ in given]
    if "pin-value" in names:
        raise Denied("key", expected="no PIN in a URI", got="pin-value",
                     hint="pin-source=FILE, --passphrase-file or the terminal")  # fmt: skip
    digits = number or str(_FIRST_ID)
    fits = digits.isascii() and digits.isdigit() and 0 < int(digits[:10]) < 2**31
    if not fits or len(set(names)) < len(names) or set(names) - {
        "label", "module-path", "pin-source"
    }:  # fmt: skip
        raise Misuse("key", expected="hsm:ID?label=TOKEN (also module-path, pin-source)", got=uri)
    found = dict(given)
    return TokenUri(
        id=int(digits),
        token=found.get("label", ""),
        module=found.get("module-path", ""),
        pin_source=found.get("pin-source", ""),
    )


def named_modules() -> list[str]:
    """Return the PKCS#11 libraries that the environment names."""
    return [path for name in MODULE_VARIABLES if (path := os.environ.get(name, ""))]


def module_of(uri: TokenUri) -> str:
    """Return the path of the PKCS#11 library: of the URI, else of the environment.

    It runs in this process, so it must be a file of root or our own that nobody else can change.
    Raises Misuse, Denied.
    """
    given = next((path for path in [uri.module, *named_modules()] if path), "")
    if not given:
        raise Misuse(
            "PKCS#11 module",
            expected=f"module-path in the URI, --module or {MODULE_VARIABLES[0]}",
            got="none",
            hint=f"export {MODULE_VARIABLES[0]}=/usr/lib/softhsm/libsofthsm2.so",
        )
    try:
        found = Path(given).stat()  # distributions link to the library's version
    except OSError as problem:
        raise Misuse(given, expected="a PKCS#11 library", got=problem.strerror) from None
    check_unshared(found, given)
    return given
