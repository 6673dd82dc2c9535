"""AWS KMS as a real HTTP server on loopback: moto, spoken to by boto3 through securesystemslib.

moto 5.2 ignores MessageType=DIGEST, which securesystemslib always sends: it would sign the digest
of the digest. `teach_digests` makes moto do what AWS does; without it moto is a service whose
signatures do not verify.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

_HASHES = {"ECDSA_SHA_256": hashes.SHA256(), "ECDSA_SHA_384": hashes.SHA384()}


@dataclass(frozen=True, slots=True)
class AwsKms:
    """A running server. client: of the tests themselves, to make keys."""

    client: Any

    def key(self, spec: str = "ECC_NIST_P256") -> str:
        """Return the id of a new signing key."""
        made = self.client.create_key(KeyUsage="SIGN_VERIFY", KeySpec=spec)
        return str(made["KeyMetadata"]["KeyId"])


@contextmanager
def aws_kms(patch: pytest.MonkeyPatch) -> Iterator[AwsKms]:
    """Yield a server that this process's AWS libraries talk to until the block ends."""
    boto3 = pytest.importorskip("boto3", reason="needs embrasure[awskms]")
    server_of = pytest.importorskip("moto.server", reason="needs moto[server]")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL_KMS": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patch.setenv(name, value)
        yield AwsKms(boto3.client("kms"))
    finally:
        server.stop()


def teach_digests(patch: pytest.MonkeyPatch) -> None:
    """moto signs the digest that it is sent, as AWS does (the client under test sends no other)."""
    from moto.kms.utils import ECDSAPrivateKey

    def sign(self: Any, message: bytes, signing_algorithm: str) -> bytes:
        found = _HASHES[signing_algorithm]
        raw = message if len(message) == found.digest_size else base64.b64decode(message)
        made: bytes = self.private_key.sign(raw, ec.ECDSA(Prehashed(found)))
        return made

    patch.setattr(ECDSAPrivateKey, "sign", sign)
