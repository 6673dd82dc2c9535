"""A caller's key that signs where it lies: the pairs that are believed, and real handshakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from embrasure.errors import Refused
from embrasure.net.credentials import channel
from embrasure.net.heldkey import ECDSA_P256_SHA256, check_held, handshake_signer
from tests.ablation import Ablation
from tests.simulate.authority import Authority, new_key
from tests.simulate.listener import METHODS, Listener, call, listening

AUTHORITY = Authority()
UNARY = "unary_unary"


async def dialled(
    listener: Listener, key: ec.EllipticCurvePrivateKey, chain: bytes, kind: str = UNARY
) -> None:
    """One call is answered whose handshake `key` signs."""
    async with channel(
        f"127.0.0.1:{listener.port}", role="node", name="n1", domain=AUTHORITY.domain,
        issuer_pems=AUTHORITY.issuer_pem("node"), key=key, chain_pem=chain,
    ) as line:  # fmt: skip
        await call(line, kind, METHODS[kind])


@pytest.mark.misuse
def test_a_key_signs_for_its_own_certificate_only(ablation: Ablation) -> None:
    key, other = new_key(), new_key()
    chain = AUTHORITY.leaf("gateway", "g1", public=key.public_key()).chain_pem

    async def course() -> None:
        async with listening(AUTHORITY) as listener:
            await dialled(listener, key, chain)
            assert listener.handlers.callers == ["gateway/g1"]
            with pytest.raises(Refused) as refused:
                await dialled(listener, other, chain)
            assert refused.value.reason == "pair"
            with ablation("the comparison of key and certificate") as attack:
                attack.without("embrasure.net.credentials.check_held")
                # It goes out to the network, and is told nothing but that the line broke.
                with pytest.raises(grpc.aio.AioRpcError) as broken:
                    await dialled(listener, other, chain)
                attack.succeeded(broken.value.code() is grpc.StatusCode.UNAVAILABLE)

    asyncio.run(course())


@pytest.mark.parametrize("curve", [ec.SECP384R1, ec.SECP256K1])
def test_a_key_of_another_curve_is_no_tls_key(curve: Callable[[], ec.EllipticCurve]) -> None:
    key = ec.generate_private_key(curve())
    chain = AUTHORITY.leaf("gateway", "g1", public=key.public_key()).chain_pem
    with pytest.raises(Refused) as refused:
        check_held(key, chain)
    assert refused.value.reason == "pair"


@pytest.mark.misuse
@pytest.mark.parametrize("algorithm", [0, 1, 4, 2**31])
def test_a_key_signs_handshakes_of_one_algorithm_only(
    algorithm: int, ablation: Ablation, caplog: pytest.LogCaptureFixture
) -> None:
    key, text = new_key(), b"transcript"
    sign = handshake_signer(key)
    verify = key.public_key().verify
    verify(sign(text, ECDSA_P256_SHA256, None), text, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(Refused):
        sign(text, algorithm, None)
    assert "the TLS key did not sign" in caplog.text
    with ablation("the comparison of the algorithm") as attack:
        attack.without("embrasure.net.heldkey.ECDSA_P256_SHA256", algorithm)
        made = sign(text, algorithm, None)
        # A signature of another algorithm than the one that was asked for.
        with pytest.raises(InvalidSignature):
            verify(made, text, ec.ECDSA(hashes.SHA384()))
        attack.succeeded(made)
