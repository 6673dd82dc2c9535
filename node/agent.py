"""The fetch process: the only one that meets the network; it holds no key that signs receipts.

Push: listens for the gateway. Pull: asks mirrors and posts to the letterbox.
"""

from __future__ import annotations

if __name__ == "__main__":
    from node import bare

    bare.leave_out()  # before what follows imports it

import asyncio
import json
import os
import resource
import sys
import threading
import time
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

from embrasure import limits, memory
from embrasure.errors import Denied, EmbrasureError, Misuse, Unavailable
from embrasure.fs import lock, replace_file
from embrasure.notify import ALIVE, READY, STOPPING, notify
from embrasure.sandbox import take_no_privilege
from node import leftovers, logs, service
from node.answering import Deaf, NoSource, converse
from node.config import MEND, NodeConfig, load_config
from node.ipc import to_apply
from node.isolation import is_production
from node.join_files import own_receipt_id
from node.logs import FIELDS
from node.looks import Looks
from node.material import Material, ends_of
from node.messages import StatusAsk
from node.paths import Paths
from node.teller import Teller
from node.users import find_user

if TYPE_CHECKING:
    from embrasure.net.credentials import Pair

LOG = getLogger(__name__)
_STEP_SECONDS = 0.05
_RELOAD_SECONDS = 2.0  # between looks at the TLS files
_FOLDER_SECONDS = 0.2  # between looks whether apply has given this process its folder
_AGAIN_SECONDS = 5.0  # until what was in the way is looked at again
_LOOK_SECONDS = 5.0  # between two proofs of life of a pull node for the service manager


def write_ports(paths: Paths, ports: dict[str, int]) -> None:
    """Whoever waits for this node sees that it is ready, and where."""
    replace_file(paths.net, service.PORTS, json.dumps(ports).encode("ascii"), mode=0o644)
    LOG.info("ready", extra={FIELDS: ports})
    notify(READY)


def await_apply(paths: Paths, stop: threading.Event) -> None:
    """Apply answers, or `stop` is set."""
    while not stop.is_set():
        try:
            with to_apply(paths) as channel:
                converse(channel, StatusAsk(), NoSource(), Deaf())
                return
        except Unavailable:
            stop.wait(_STEP_SECONDS)


def end_of(pair: Pair) -> int:
    """Return when the certificate of `pair` ends, Unix seconds."""
    return int(ends_of(pair.chain_pem).timestamp())


async def listen(paths: Paths, config: NodeConfig, stop: threading.Event, teller: Teller) -> None:
    """Gateways are served until `stop` is set."""
    # Only a push node pays for gRPC.
    import grpc

    from embrasure.net import renewal
    from embrasure.net.credentials import ServerKeys
    from embrasure.net.identity import Identity
    from embrasure.net.pairfile import write_pair
    from embrasure.net.server import Service, bind, build_server
    from embrasure.net.trustbundle import TrustHolder
    from embrasure.wire import node_pb2
    from node import doorway as door_side
    from node import join_service
    from node.push import TABLE, NodeService, add_to_server
    from node.push_listener import PushListener

    leftovers.clear_own(paths)
    material, looks = Material(paths), Looks(paths)
    holder = TrustHolder(material.trust())
    keys = ServerKeys(
        material.pair(at=material.moment(), trust=holder.trust), holder, roles=["gateway"]
    )

    def keep(pair: Pair) -> None:
        write_pair(paths.renewed, pair)
        keys.swap(pair)

    renewing = renewal.Renewal(
        Identity("node", config.id), holder, serving=lambda: keys.pair, keep=keep
    )
    joining = join_service.joining_service(paths, partial(to_apply, paths))
    doorway = door_side.Doorway(partial(to_apply, paths), keys.pair, material.ca_roots())

    def make() -> grpc.aio.Server:
        return build_server(
            [served, renewal.renewal_service(renewing), joining, doorway.service()],
            {**TABLE, **renewal.TABLE, **join_service.TABLE, **door_side.TABLE},
            holder,
            connections=limits.NODE_CONNECTIONS,
            # The gateway asks on a silent stream whether this machine is still there.
            bounds={
                "grpc.http2.min_ping_interval_without_data_ms": limits.NODE_KEEPALIVE_MILLISECONDS
                // 2
            },
        )

    listener = PushListener(make, lambda server, at: bind(server, at, keys), config.listen)
    served = Service(
        node_pb2.DESCRIPTOR.services_by_name["Node"],
        add_to_server,
        NodeService(
            partial(to_apply, paths),
            lambda: renewal.serial_of(keys.pair),
            lambda: material.believed,
            listener,
        ),
    )
    door = await doorway.open(config)
    port = await listener.open()
    await asyncio.to_thread(await_apply, paths, stop)
    write_ports(paths, {"push": port, "door": door})
    try:
        while not await asyncio.to_thread(stop.wait, _RELOAD_SECONDS):
            notify(ALIVE)  # the loop that serves the gateway turns
            try:
                now = material.moment()
                if looks.is_due(now):
                    holder.swap(material.trust())
                    keys.swap(material.pair(at=now, trust=holder.trust))
                    doorway.swap(keys.pair, material.ca_roots())
                    looks.done(ends=end_of(keys.pair))
            except EmbrasureError as problem:
                # The last good ones stay: a bad file must not close the door.
                await asyncio.to_thread(teller.waits, problem, end_of(keys.pair))
            else:
                await asyncio.to_thread(teller.works, end_of(keys.pair))
    finally:
        await doorway.close()
        await listener.close()


def ask_around(paths: Paths, config: NodeConfig, stop: threading.Event, teller: Teller) -> None:
    """Mirrors are asked, and receipts posted, until `stop` is set; raises Misuse without one."""
    if not config.mirrors:
        raise Misuse(
            "node.toml", expected="a mirror for a pull node", got="none", reason="no-mirror",
            untouched="what runs keeps running; `node apply` installs from a folder",
            hint="mirrors = [{ name = \"m1\", address = \"HOST:PORT\" }] in node.toml",
        )  # fmt: skip
    from node.mirror_word import MirrorWord
    from node.poster import Poster
    from node.pull import Puller

    connect, material = partial(to_apply, paths), Material(paths)
    material.trust()  # not enrolled: said now, not in a thread
    poster = None
    if config.letterbox is not None:
        key = own_receipt_id(paths)  # its public id: the key itself is no business of ours
        poster = Poster(
            connect,
            material.trust,
            config.letterbox,
            key=key,
            poll_s=config.poll_s,
            stop=stop,
        )
        threading.Thread(target=poster.run, name="poster", daemon=True).start()
    word = MirrorWord(connect, material.trust, config.mirrors, hearer=poster or Deaf(), stop=stop)
    threading.Thread(target=word.run, name="mirror word", daemon=True).start()
    puller = Puller(
        connect,
        material.trust,
        material.ca_roots,
        config.mirrors,
        poll_s=config.poll_s,
        hearer=word,
        stop=stop,
    )
    pulling = threading.Thread(target=puller.run, name="puller", daemon=True)
    pulling.start()
    await_apply(paths, stop)
    write_ports(paths, {})
    while not stop.wait(_LOOK_SECONDS):
        if pulling.is_alive():
            notify(ALIVE)
        teller.works()


def work(paths: Paths, stop: threading.Event, teller: Teller) -> None:
    """The network side works until `stop` is set; raises what keeps it from that."""
    config = load_config(paths)
    if config.mode == "push":
        asyncio.run(listen(paths, config, stop, teller))
    else:
        ask_around(paths, config, stop, teller)


def await_folder(paths: Paths, stop: threading.Event) -> None:
    """Its own folder is this process's, or `stop` is set: apply gives it, at its own first start,
    and the two units are started at the same time.
    """
    is_told = False
    while not os.access(paths.tls, os.R_OK | os.W_OK | os.X_OK):
        if not is_told:
            LOG.info("waiting for apply to give it %s", paths.tls)
            is_told = True
        if stop.wait(_FOLDER_SECONDS):
            return


def run(paths: Paths, stop: threading.Event) -> None:
    """The network side of the node works until `stop` is set.

    What keeps it from working is told once, and looked at again: it ends by its repair.
    """
    teller = Teller(partial(to_apply, paths))
    await_folder(paths, stop)
    if stop.is_set():
        return
    with lock(paths.tls / service.FETCH_LOCK, seconds=1):
        try:
            while not stop.is_set():
                try:
                    work(paths, stop, teller)
                except EmbrasureError as problem:
                    teller.waits(problem)
                    stop.wait(_AGAIN_SECONDS)
        finally:
            notify(STOPPING)


def alone(paths: Paths, parent: int | None) -> int:
    """Return the exit code of the fetch process, which ends at SIGTERM, and with `parent`.

    In production it is fetch's user from the start, or becomes it before it reads anything else
    than its configuration; then all that it needs is imported already.
    """
    memory.keep(limits.KEPT_BYTES)
    try:
        config = first_config(paths, parent)
        if is_production(paths, config):
            become(config)
    except EmbrasureError as problem:
        logs.start("fetch")
        LOG.error("%s [%s]; hint: %s", problem, problem.word, problem.hint or "none")
        return problem.exit_code
    return service.run("fetch", parent, lambda signals: run(paths, signals.stop()))


def first_config(paths: Paths, parent: int | None) -> NodeConfig:
    """Return the configuration, once node.toml is whole; said once, and then waited for.

    Nothing else is read and nothing done until it says whom this process runs as. Raises Misuse
    where no node is.
    """
    said = ""
    while True:
        try:
            return load_config(paths)
        except EmbrasureError as problem:
            if not paths.data.is_dir():
                raise
            if str(problem) != said:
                said = str(problem)
                logs.start("fetch")
                LOG.error("%s [%s]; hint: %s", problem, problem.word, MEND)
        if parent is not None and os.getppid() != parent:
            raise Unavailable("fetch", expected="its parent", got="none", reason="stopping")
        time.sleep(_RELOAD_SECONDS)  # a signal ends it: nothing is held yet


def become(config: NodeConfig) -> None:
    """This process is fetch's user, without any privilege; raises Denied (`no-user`)."""
    user = find_user(config.fetch_user, what="fetch")
    if os.geteuid() == 0:
        import_all(config)
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    if os.geteuid() != user.uid:
        raise Denied("fetch", expected=f"user {user.uid}", got=f"user {os.geteuid()}",
                     hint="start it as root, which then becomes that user; or set `fetch_user`",
                     reason="no-user")  # fmt: skip
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    take_no_privilege()


def import_all(config: NodeConfig) -> None:
    """Everything is loaded that the user, who may not read our files, will run."""

    import cryptography.hazmat.backends.openssl.backend  # noqa: F401  # the first key that is read

    if config.mode == "push":  # what `listen` imports
        import embrasure.net.pairfile
        import embrasure.net.renewal
        import embrasure.net.server  # noqa: F401  # loaded here, used by `listen`
        import node.doorway
        import node.join_service
        import node.push
        import node.push_listener
    else:  # what `ask_around` imports
        import node.mirror_word
        import node.poster
        import node.pull  # noqa: F401  # loaded here, used by `ask_around`


def main() -> int:
    """The fetch process of the prefix in the arguments, until SIGTERM."""
    prefix, parent = service.arguments(sys.argv[1:])
    return alone(Paths(Path(prefix)), parent)


if __name__ == "__main__":
    sys.exit(main())
