"""Keys in key services: AWS, Google Cloud and Azure KMS, and Vault; securesystemslib signs.

Who we are to such a service is its own library's business (an instance role, a token file): no
secret of it passes through here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping

from securesystemslib.signer import (
    AWSSigner,
    AzureSigner,
    GCPSigner,
    Signer,
    SSlibKey,
    VaultSigner,
)

from embrasure.errors import EmbrasureError, Misuse, Refused, Unavailable
from pki import keyuri, schemes
from pki.checked import CheckedSigner
from pki.keyuri import Backend

_AZURE = re.compile(r"//([a-z0-9-]{1,127})\.vault\.azure\.net/keys/([A-Za-z0-9-]{1,127})(/.*)?")


def _aws(name: str) -> tuple[str, SSlibKey]:
    return AWSSigner.import_(name)


def _gcp(name: str) -> tuple[str, SSlibKey]:
    return GCPSigner.import_(name)


def _azure(name: str) -> tuple[str, SSlibKey]:
    found = _AZURE.fullmatch(name)
    if found is None:
        raise Misuse("key", expected="azurekms://VAULT.vault.azure.net/keys/KEY/VERSION", got=name)
    return AzureSigner.import_(found[1], found[2])


def _vault(name: str) -> tuple[str, SSlibKey]:
    return VaultSigner.import_(name.partition("/")[0])


_IMPORTS: Mapping[Backend, Callable[[str], tuple[str, SSlibKey]]] = {
    "awskms": _aws,
    "gcpkms": _gcp,
    "azurekms": _azure,
    "hv": _vault,
}


def public_at(uri: str) -> tuple[str, SSlibKey]:
    """Return the whole URI (with the key's version) and the public half that the service shows.

    Raises Misuse (`extra`), Unavailable, Refused for a kind of key that we do not use.
    """
    backend = keyuri.backend_of(uri)
    keyuri.check_installed(backend)
    try:
        full, key = _IMPORTS[backend](uri.partition(":")[2])
    except EmbrasureError:
        raise
    # Each service's library has errors of its own, and documents few of them.
    except Exception as problem:
        raise explained(problem, uri) from None
    scheme, pub = schemes.written(key)
    # The id is that of the same key in one form: a service may write its PEM in another.
    return full, schemes.decode_public(scheme, pub, schemes.key_id(scheme, pub))


def open_signer(uri: str, public: SSlibKey) -> CheckedSigner:
    """Return the signer of the key at `uri`; raises Misuse (`extra`), Unavailable."""
    backend = keyuri.backend_of(uri)
    keyuri.check_installed(backend)
    try:
        inner = Signer.from_priv_key_uri(uri, public)
    except Exception as problem:
        raise explained(problem, uri) from None
    return CheckedSigner(
        inner, public, explain=lambda problem: explained(problem, uri), lock=threading.Lock()
    )


def explained(problem: Exception, uri: str) -> EmbrasureError:
    """Return our error for one of a service's library; the text of it may say what to do."""
    if isinstance(problem, LookupError | ValueError | TypeError):
        return Refused(uri, expected="a key that signs", got=_text(problem), reason="key-service")
    return Unavailable(uri, expected="a key service that answers", got=_text(problem),
                       hint="the service's own settings name account, region and address",
                       reason="key-service")  # fmt: skip


def _text(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"
