"""No message is inflated: listeners refuse compressed calls, callers refuse compressed answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from embrasure.net import credentials, server
from embrasure.net.credentials import CHANNEL_OPTIONS, channel
from embrasure.wire import mirror_pb2
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.listener import METHODS, Listener, listening

ZEROS = 900_000  # on the wire some 900 bytes; below the bound of a message
HOST = "n1.node.fleet.example.internal"
ENCODED = "grpc.compression_enabled_algorithms_bitset"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


async def put(listener: Listener) -> grpc.StatusCode:
    """Return how a caller fares who sends one message of zeros, compressed."""
    leaf, authority = listener.authority.leaf("gateway", "g1"), listener.authority
    keys = grpc.ssl_channel_credentials(authority.issuer_pem("node"), leaf.key_pem, leaf.chain_pem)

    async def messages() -> AsyncIterator[mirror_pb2.Piece]:
        yield mirror_pb2.Piece(body=bytes(ZEROS))

    async with grpc.aio.secure_channel(
        f"127.0.0.1:{listener.port}", keys, compression=grpc.Compression.Gzip,
        options=[("grpc.ssl_target_name_override", HOST)],
    ) as line:  # fmt: skip
        call: Any = line.stream_unary(
            METHODS["stream_unary"],
            request_serializer=mirror_pb2.Piece.SerializeToString,
            response_deserializer=bytes,
        )
        running = call(messages(), timeout=10)
        code: grpc.StatusCode = await running.code()
        return code


@pytest.mark.misuse
def test_a_listener_inflates_no_call(authority: Authority, ablation: Ablation) -> None:
    async def ended() -> grpc.StatusCode:
        async with listening(authority) as listener:
            return await put(listener)

    # The second when the caller's next frame is faster than the answer.
    assert asyncio.run(ended()) in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL)
    with ablation("the refusal of every encoding") as attack:
        real = server.server_options
        attack.without(
            "embrasure.net.server.server_options",
            lambda connections: [one for one in real(connections) if one[0] != ENCODED],
        )
        attack.succeeded(asyncio.run(ended()) is grpc.StatusCode.OK)


@pytest.mark.misuse
def test_a_caller_inflates_no_answer(authority: Authority, ablation: Ablation) -> None:
    """A node or mirror that was taken over answers its gateway."""
    leaf, me = authority.leaf("node", "n1"), authority.leaf("gateway", "g1")

    async def zeros(request: bytes, context: object) -> bytes:
        return bytes(ZEROS)

    async def got() -> int:
        """Return how many bytes the answer has for the caller."""
        evil = grpc.aio.server(compression=grpc.Compression.Gzip)
        handler: Any = grpc.unary_unary_rpc_method_handler(zeros)
        evil.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("any.Service", {"Call": handler}),)
        )
        keys = grpc.ssl_server_credentials([(leaf.key_pem, leaf.chain_pem)])
        port = evil.add_secure_port("127.0.0.1:0", keys)
        await evil.start()
        try:
            async with channel(
                f"127.0.0.1:{port}", role="node", name="n1", domain=authority.domain,
                issuer_pems=authority.issuer_pem("node"), key=me.key_pem, chain_pem=me.chain_pem,
            ) as line:  # fmt: skip
                call: Any = line.unary_unary("/any.Service/Call")
                return len(await call(b"", timeout=10))
        finally:
            await evil.stop(0)

    with pytest.raises(grpc.aio.AioRpcError, match="gzip"):
        asyncio.run(got())
    with ablation("the refusal of every encoding") as attack:
        bounds = tuple(one for one in CHANNEL_OPTIONS if one[0] != ENCODED)
        attack.without(f"{credentials.__name__}.CHANNEL_OPTIONS", bounds)
        attack.succeeded(asyncio.run(got()) == ZEROS)
