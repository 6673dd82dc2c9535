"""What authorization adds to one call: a real listener over real TLS, with and without it.

Run: python -m bench.authorization [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from embrasure import limits
from embrasure.net.authorize import Table
from embrasure.net.credentials import Pair, ServerKeys
from embrasure.net.identity import Role
from embrasure.net.server import Service, bind, build_server, server_options
from embrasure.net.trustbundle import TrustHolder
from embrasure.wire import node_pb2, node_pb2_grpc
from tests.simulate.authority import Authority
from tests.simulate.listener import METHODS, Handlers, Listener, call, trust_from

LIMIT_MS = 0.2
LIMIT_SHARE = 0.5  # of the same call without: what `--quick` judges, on a machine of any speed
CALLS, ROUNDS = 25, 150


class Plain(Handlers):
    """Answers without asking who calls."""

    async def _run(self, name: str, context: object) -> None:
        return None


NODE = node_pb2.DESCRIPTOR.services_by_name["Node"]
_GATEWAY: frozenset[Role] = frozenset({"gateway"})
TABLE: Table = {f"/{NODE.full_name}/{method.name}": _GATEWAY for method in NODE.methods}


@asynccontextmanager
async def listener(authority: Authority, *, guarded: bool) -> AsyncIterator[Listener]:
    """A node's listener with the same TLS, bounds and handler; `guarded` behind authorization."""
    leaf = authority.leaf("node", "n1")
    holder = TrustHolder(trust_from(authority))
    keys = ServerKeys(Pair(leaf.key_pem, leaf.chain_pem), holder, roles=["gateway"])
    service = Service(NODE, node_pb2_grpc.add_NodeServicer_to_server, Plain())
    if guarded:
        server = build_server([service], TABLE, holder)
    else:
        server = grpc.aio.server(
            options=server_options(limits.CONNECTIONS), compression=grpc.Compression.NoCompression
        )
        service.add(service.servicer, server)
    port = bind(server, "127.0.0.1:0", keys)
    await server.start()
    try:
        yield Listener(authority, port, Plain(), holder, keys)
    finally:
        await server.stop(0)


async def measure(calls: int, rounds: int) -> tuple[float, float]:
    """Return the CPU milliseconds of one call without and with authorization, both sides counted.

    Rounds alternate, and the least of each counts: a busy machine only ever adds. They are short,
    for what another process disturbs is a round, and of many short ones some are left alone.
    """
    authority = Authority()
    caller = authority.leaf("gateway", "g1")
    found: list[list[float]] = [[], []]
    async with AsyncExitStack() as held:
        listeners = [
            await held.enter_async_context(listener(authority, guarded=guarded))
            for guarded in (False, True)
        ]
        channels = [await held.enter_async_context(one.channel(caller)) for one in listeners]
        for number in range(rounds + 1):
            for place, channel in enumerate(channels):
                before = time.process_time()
                for _ in range(calls):
                    await call(channel, "unary_unary", METHODS["unary_unary"])
                if number:  # the first round makes connections
                    found[place].append((time.process_time() - before) * 1000 / calls)
    return min(found[0]), min(found[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 when authorization costs more than its limit, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds, judged by the call without"
    )
    quick = parser.parse_args(arguments).quick
    plain, guarded = asyncio.run(measure(CALLS, 54 if quick else ROUNDS))
    added = guarded - plain
    print(f"figure: call_cpu_without_authorization = {plain:.3f} ms")
    print(f"figure: call_cpu_with_authorization = {guarded:.3f} ms")
    print(f"figure: authorization_cpu = {added:.3f} ms")
    print(f"figure: authorization_share = {added / plain:.2f} of a call without")
    if quick and added >= LIMIT_SHARE * plain:
        print(f"above its limit: {added / plain:.2f}, at most {LIMIT_SHARE}", file=sys.stderr)
        return 1
    if not quick and added >= LIMIT_MS:
        print(f"above its limit: {added:.3f} ms, at most {LIMIT_MS}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
