"""TLS credentials for gRPC: servers that forget every ticket, callers that dial an identity.

The only module that makes gRPC credentials.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from embrasure import limits
from embrasure.errors import Misuse
from embrasure.net.certificates import check_pair, load_certificates
from embrasure.net.heldkey import check_held, handshake_signer
from embrasure.net.identity import Role, dns_name
from embrasure.net.trustbundle import TrustHolder

LOG = getLogger(__name__)

Option = tuple[str, str | int]

# Of all encodings only `identity`: a message that came compressed is refused, not inflated.
AS_IT_IS = ("grpc.compression_enabled_algorithms_bitset", 1)

CHANNEL_OPTIONS: tuple[Option, ...] = (
    AS_IT_IS,
    # A channel has one identity: no other channel may lend it a connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", limits.KEEPALIVE_MILLISECONDS),
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.MESSAGE_BYTES),
    ("grpc.max_metadata_size", limits.HEADER_BYTES),
    # Neither a proxy of the environment nor a DNS record may choose where or how we call.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A private key and the chain of its certificate, as PEM; checked to belong together."""

    key_pem: bytes
    chain_pem: bytes

    def __post_init__(self) -> None:
        check_pair(self.key_pem, self.chain_pem, what="TLS")

    def __repr__(self) -> str:
        return "Pair(...)"


class ServerKeys:
    """What a listener shows and whom it lets in: read before every handshake, swapped as a whole.

    roles: the client roles of this listener, its one trust set.
    failures: how often a handshake had to use the last good configuration.
    """

    def __init__(self, pair: Pair, holder: TrustHolder, *, roles: Sequence[Role]) -> None:
        self.holder = holder
        self.roles = tuple(roles)
        self.pair = pair
        self.failures = 0

    def swap(self, pair: Pair) -> None:
        """New connections see `pair`; open ones end by their age."""
        self.pair = pair

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Return a new configuration out of memory; raises Refused when nobody is trusted."""
        pair = self.pair
        return grpc.ssl_server_certificate_configuration(
            [(pair.key_pem, pair.chain_pem)], self.anchors()
        )

    def anchors(self) -> bytes:
        """Return the issuers that TLS lets in, as PEM; raises Refused when there are none."""
        return self.holder.trust.listener_pem(self.roles)

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration for one handshake; None keeps the last good one.

        A new object each time: it has new ticket keys, so no ticket is ever accepted. A ticket
        would let a client back in after its expiry, or with no certificate at all (measured).
        """
        try:
            return self.configuration()
        except Exception:
            # gRPC would swallow it in silence.
            self.failures += 1
            LOG.exception("no new TLS configuration; the last good one stays")
            return None


def server_credentials(keys: ServerKeys) -> grpc.ServerCredentials:
    """Return credentials that demand a client certificate and ask `keys` at every handshake."""
    return grpc.dynamic_ssl_server_credentials(
        keys.configuration(),
        keys.fetch,  # type: ignore[arg-type]  # None is documented, and missing in the stubs
        True,
    )


class AnonymousKeys:
    """What a listener shows to callers of whom it asks no certificate; swapped as a whole."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def swap(self, pair: Pair) -> None:
        """New connections see `pair`."""
        self.pair = pair

    def fetch(self) -> grpc.ServerCertificateConfiguration:
        """Return the configuration for one handshake: a new one each time, so no ticket counts."""
        return grpc.ssl_server_certificate_configuration([(self.pair.key_pem, self.pair.chain_pem)])


def anonymous_credentials(keys: AnonymousKeys) -> grpc.ServerCredentials:
    """Return credentials that ask for no client certificate and never see one."""
    return grpc.dynamic_ssl_server_credentials(keys.fetch(), keys.fetch, False)


def pinned_channel(address: str, *, leaf: bytes, host: str) -> grpc.aio.Channel:
    """Return a channel to whoever holds the key of exactly the certificate `leaf` (PEM).

    host: its one DNS name. The caller shows no certificate.
    """
    load_certificates(leaf, what="pinned certificate")
    credentials = grpc.ssl_channel_credentials(leaf)
    override: Option = ("grpc.ssl_target_name_override", host)
    return grpc.aio.secure_channel(address, credentials, options=[*CHANNEL_OPTIONS, override])


def client_credentials(
    issuer_pems: bytes, key: bytes | ec.EllipticCurvePrivateKey, chain_pem: bytes
) -> grpc.ChannelCredentials:
    """Return a caller's credentials: by its key, or by what signs for it; raises Refused (`pair`).

    gRPC calls its custom signer experimental, so it is asked for only where there is no PEM.
    """
    if isinstance(key, bytes):
        pair = Pair(key, chain_pem)
        return grpc.ssl_channel_credentials(issuer_pems, pair.key_pem, pair.chain_pem)
    check_held(key, chain_pem)
    from grpc import experimental

    with warnings.catch_warnings():
        # We know, and a test holds it to its contract.
        warnings.simplefilter("ignore", experimental.ExperimentalApiWarning)
        made: grpc.ChannelCredentials = experimental.ssl_channel_credentials_with_custom_signer(
            private_key_sign_fn=handshake_signer(key),
            root_certificates=issuer_pems,
            certificate_chain=chain_pem,
        )
    return made


def channel(
    address: str,
    *,
    role: Role,
    name: str,
    domain: str,
    issuer_pems: bytes,
    key: bytes | ec.EllipticCurvePrivateKey,
    chain_pem: bytes,
    options: Sequence[Option] = (),
) -> grpc.aio.Channel:
    """Return a channel to `address` that speaks only with the server `role`/`name`.

    issuer_pems: the one or two issuers of that role; key, chain_pem: who we are. key: PEM, or what
    signs each handshake itself where nobody has its bytes, such as one in a token.
    A channel keeps its credentials for ever: make a new one for a new certificate.
    Raises Refused (`pem`, `pair`).
    """
    host = dns_name(role, name, domain)
    if not host:
        # Without a name to demand gRPC would check the address instead.
        raise Misuse("dialled role", expected="one that listens", got=role)
    load_certificates(issuer_pems, what=f"issuers of {role}")
    credentials = client_credentials(issuer_pems, key, chain_pem)
    override: Option = ("grpc.ssl_target_name_override", host)
    merged = {**dict(CHANNEL_OPTIONS), **dict(options), **dict([override])}
    return grpc.aio.secure_channel(address, credentials, options=list(merged.items()))
