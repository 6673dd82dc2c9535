"""A signer of another library: its errors become ours, and what it signs is verified first."""

from __future__ import annotations

import threading
from collections.abc import Callable

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, SecretsHandler, Signature, Signer, SSlibKey

from embrasure.errors import EmbrasureError, Refused

Explain = Callable[[Exception], EmbrasureError]


class CheckedSigner(Signer):
    """Signs one call at a time; every signature verifies under `public`, or there is none.

    explain: makes our error of the library's; lock: of the session that the key is used in
    """

    def __init__(
        self, inner: Signer, public: SSlibKey, *, explain: Explain, lock: threading.Lock
    ) -> None:
        self._inner, self._public = inner, public
        self._explain, self._lock = explain, lock

    @property
    def public_key(self) -> SSlibKey:
        """The public half."""
        return self._public

    def sign(self, payload: bytes) -> Signature:
        """Return a signature over `payload`; raises Refused when another key made it."""
        with self._lock:
            try:
                made = self._inner.sign(payload)
            except EmbrasureError:
                raise
            # The libraries behind it document none of their errors.
            except Exception as problem:
                raise self._explain(problem) from None
        check_made(self._public, made, payload)
        return made

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> Signer:
        """Raises: keys are opened by `pki.signers` alone, which knows what each may do."""
        raise Refused("key", expected="pki.signers", got="securesystemslib's own opener")


def check_made(public: SSlibKey, made: Signature, payload: bytes) -> None:
    """Return only when `public` verifies the signature; raises Refused (`other-key`).

    Another key may lie where this one was: a token made anew, a key service's new version.
    """
    try:
        public.verify_signature(made, payload)
    except (UnverifiedSignatureError, VerificationError):
        raise Refused(
            f"key {public.keyid[:12]}",
            expected="a signature of this key",
            got="one of another key",
            hint="its token or key service holds another key now; export its public half again",
            reason="other-key",
        ) from None
