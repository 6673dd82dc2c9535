"""Every bound of the product, once: value, unit, and why it is that value.

Names end in their unit. `docs/limits.md` is made from this file and tested to be current.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# Documents (signed, parsed whole; all other bytes are streamed)
MANIFEST_BYTES = 16 * MIB  # 65,536 entries are 11.8 MB of JSON
PLAN_BYTES = 64 * KIB  # 8 waves of 16 named nodes are 20 KiB
GATE_BYTES = 64 * KIB  # 128 receipts in base64 are 55 KiB
ORDER_BYTES = 4 * KIB  # one envelope
STATEMENT_BYTES = 16 * KIB  # enrolment statement with its boot certificate; approval statement
CHALLENGE_BYTES = 8 * KIB  # a challenge to a new node, and its answer: an HPKE seal is 1.2 KiB
ANSWER_BYTES = 40 * KIB  # an enrolment answer that travels: it must fit one IPC message in base64
JOIN_SECONDS = 3600  # life of a join token
JOIN_TOKEN_BYTES = 128  # a file or a pipe with the token, which is one short line
JOIN_TRIES = 5  # wrong answers after which a join token is void
JOIN_PENDING_SECONDS = 24 * 3600  # from a right answer to the entry in force, else it lapses
ENROLMENT_BYTES = 64 * KIB  # first floors, TLS chain and trust bundle
POLICY_BYTES = 256 * KIB  # 100 people, 500 apps
REVOCATIONS_BYTES = 256 * KIB  # 1,000 entries a list
SHARD_BYTES = 768 * KIB  # one directory shard: 256 nodes of 3 KB (hybrid keys), in one message
RECOVERY_BYTES = 4 * KIB  # the recovery recipient: one hybrid public key
TLS_BUNDLE_BYTES = 64 * KIB  # CA root and two intermediates for each of five roles
FLOORS_BYTES = 2 * MIB  # a node's floors: 4,096 denials and one file more are 650 KiB
JSON_DEPTH = 8  # nesting; scanned before the parser runs
MAX_INTEGER = 2**53 - 1  # RFC 8785 / IEEE 754 exact integers
CONFIG_BYTES = 256 * KIB  # one TOML file: configuration, plan file, app.toml
SERVED_APPS = 64  # apps whose file a node keeps a copy of
SERVED_FILE_BYTES = 16 * KIB  # one of them: all of them fit FLOORS_BYTES in base64

# Ceremonies
POSSESSION_BYTES = 8 * KIB  # a proof that a new keyholder has his key; ML-DSA-65 signs with 3.3 KB
POSSESSION_SECONDS = 30 * 86400  # after which such a proof is made again
PROOFS_PER_DRAFT = 64  # new keys of two roles of 32
REFUSAL_BYTES = 8 * KIB  # a signed no to a draft
TRANSCRIPT_LINE_BYTES = 64 * KIB  # one act of a ceremony with the digests of what it left
TRANSCRIPT_BYTES = 8 * MIB  # one transcript; the next act begins another

# TUF metadata (bytes a file)
ROOT_BYTES = 512_000
TIMESTAMP_BYTES = 16_000
SNAPSHOT_BYTES = 256_000
TARGETS_BYTES = 512_000
DELEGATED_BYTES = 256_000
ROOT_STEPS = 64  # root versions walked in one refresh
VISITED_ROLES = 32  # delegations looked at for one target
DOCUMENTS_HELD = 512  # target files kept beside the metadata; the longest unused go first
DOCUMENTS_HELD_BYTES = 256 * MIB
DOCUMENTS_IN_MEMORY_BYTES = MIB  # those in use beside it; what does not fit is read each time
MARK_SECONDS = 60  # between two notes that a held document is in use: its age decides who goes
KEYS_PER_ROLE = 32  # distinct keys; CVE-2026-23992 is a threshold of 0
PARSED_BYTES = 512 * KIB  # documents that are kept parsed: a manifest of 2,000 files is 440 KB
PARSED_KEPT = 16  # so many of them: seven for one app, three more for each other app
MATERIAL_KEPT = 16  # TLS files, or certificates, 64 KiB at most, that a node has parsed
SHAPES_KEPT = 512  # kinds of documents and messages of which it is known whether they hold times
VOUCHED_KEPT = 128  # metadata files whose signatures were checked, 1 KiB each; eight for one app
MEMBER_NAMES_KEPT = 1_024  # names of members that were looked at, 128 bytes each; some 300 are ours
RECORDS_KEPT = 16  # journal records and receipts on disk, 64 KiB at most, that are kept parsed

# Manifest
FILES = 65_536  # entries
PATH_BYTES = 1_024  # whole path, and link target
NAME_BYTES = 255  # one part of a path (ext4, xfs)
PATH_DEPTH = 32  # parts
FILE_BYTES = 64 * GIB  # one file
RELEASE_BYTES = 1024 * GIB  # all files of one release
HOOKS = 5
PROBES = 32
PORTS = 16
REQUIRES = 16
SECRETS = 64
ARGV_ITEMS = 16
ARGV_ITEM_BYTES = 4_096

# Plan, gate, policy
WAVES = 8
NAMED_NODES = 16  # witnesses or canaries in one wave
WITNESSES = 12  # named for evidence in a later wave
AFTER = 8
WINDOWS = 8
SETTINGS = 64
SETTING_BYTES = 4_096
RECEIPTS_PER_GATE = 128
TITLE_CHARACTERS = 80
COMMENT_CHARACTERS = 500
REASON_CHARACTERS = 200
MAX_ATTEMPTS = 3  # tries a node
PEOPLE = 100
KEYS_PER_PERSON = 4
APPS = 500
FREEZES = 32
DENIED_PER_LIST = 1_000
DENIED_UNION = 4_096  # entries kept by a node; one more holds every new install
LABELS = 16
VERSION_MOST = 999_999_999  # of a metadata file: nine digits in its name
VERSIONS_KEPT = 1_000_000  # a gateway goes above its old numbers only while so many are left
SEQ_AHEAD = 1_000_000  # seq_ceiling above the newest seq
RESET_AHEAD = 1_000_000  # denials_reset_through above the newest revocations: numbers must be left
MANIFESTS_PER_ROLE = 6

# Sealed secrets
SECRET_PLAIN_BYTES = 64 * KIB  # one secret: keys, certificates, passwords; never content
SECRET_RECIPIENTS = 256  # nodes of one file; 1.7 KB each
SECRET_BYTES = 640 * KIB  # one sealed file: 257 stanzas are 440 KiB, the payload 88 KiB

# Receipts and the letterbox
RECEIPT_RECORD_BYTES = 256
RECEIPT_BYTES = 320  # record and Ed25519 signature
POST_BYTES = 4 * KIB  # sealed body of one letterbox post
POST_HEADER_BYTES = KIB  # its signed header, one envelope
LOG_TAIL_BYTES = 2 * KIB
LETTERBOX_SLOTS_PER_KEY = 64  # uncollected
LETTERBOX_BYTES_PER_KEY = 256 * KIB  # uncollected
LETTERBOX_BYTES = GIB  # all uncollected posts
LETTERBOX_ALARM_PERCENT = 85  # of LETTERBOX_BYTES
LETTERBOX_KEEP_SECONDS = 30 * 86400  # an unclaimed post
LETTERBOX_BURST = 10  # posts, then one per LETTERBOX_REFILL_SECONDS
LETTERBOX_REFILL_SECONDS = 10
COLLECT_POSTS = 1_000  # a call
OUTBOX_RECEIPTS = 1_000

# Time
SKEW_SECONDS = 300  # clocks may differ this much
ORDER_SECONDS = 300  # life of an order
APPROVE_SECONDS = 24 * 3600  # created to approve_by
START_SECONDS = 4 * 3600  # approve_by to not_after
EXPIRY_MAX_SECONDS = 14 * 86400
TIMESTAMP_SECONDS = 24 * 3600
SNAPSHOT_SECONDS = 7 * 86400
GATES_SECONDS = 7 * 86400
LOCK_SECONDS = 10  # wait for a lock file, then a typed error
METADATA_SECONDS = 30  # one metadata file in all
FORETOLD_SECONDS = 5  # that what a source said before it was asked stands for an answer
BLOB_GRACE_SECONDS = 10  # before the minimum speed counts
BLOB_WINDOW_SECONDS = 30  # over which it is measured
BLOB_BYTES_PER_SECOND = 16 * KIB  # slower sources are dropped

# Moving bytes
BUFFER_BYTES = 256 * KIB  # one read, one write
FRAME_BODY_BYTES = MIB - 4 * KIB  # body of one Data message
MESSAGE_BYTES = MIB  # gRPC receive limit
HEADER_BYTES = 16 * KIB  # gRPC metadata
KEPT_BYTES = 16 * MIB  # of freed memory, while a release comes in: a few messages at each step
AHEAD_FILES = 16  # sent along with an order: of one app seven, and the word that there is no root
AHEAD_BYTES = 32 * KIB  # of all of them: they travel in one IPC message, in base64
HELD_MESSAGES = 2  # come for one stream, beside the one that is handed on to apply
OPEN_WANTS = 64
PACKED_BYTES = 256 * KIB  # the largest blob of a pack: hashed in memory before it is written
PACK_LEAST_BLOBS = 16  # fewer that are missing side by side come one by one: as quick
PACK_RANGES = 64  # asked for of one pack; what lies between them is here
PACKS_KNOWN = 1_048_576  # blobs of all the packs whose order a server remembers: 40 bytes each
OPEN_CALLS_PER_PEER = 8
WATCH_SECONDS = 50  # a long poll is answered by then
WATCHERS = 2_048  # waiting at once, then 503
HTTP_CONNECTIONS = 2_304  # of one mirror or letterbox process: its waiters, and some that read
HTTP_CONNECTIONS_PER_ADDRESS = 512  # a site behind one address fits; one host cannot take all
HTTP_HEAD_SECONDS = 10  # from the first byte of a request to the last of its head or post
HTTP_STALL_SECONDS = 30  # a reader that takes nothing for so long is dropped
POLL_JITTER_SECONDS = 5

# Node
TRANSITIONS = 32  # state changes of one transaction
JOURNAL_BYTES = 64 * KIB  # one state record
CONFIRM_SECONDS = 120  # a new release waits so long for the word that lets it stay
CONFIRM_LONGEST_SECONDS = 1_800  # the most that a node's owner may make of it
CONFIRMED_SECONDS = 300  # a confirmation is answered with the end of its install, or after this
HOOK_SECONDS = 3_600  # the most that a release may ask for one of its hooks
SOAK_SECONDS = 86_400  # the most that a plan may ask for one wave
OFFER_SECONDS = 60  # a node says whether a release may run, its secrets open and it has room
BUILD_SECONDS = 1_800  # a release is built, synced, read back and named
BUILD_MOST_SECONDS = 7_200  # what an owner may allow instead: 1 TiB at 150 MB/s
SWITCH_SECONDS = 30  # one rename, on disk
START_STATE_SECONDS = 90  # the old instance ends, a new one begins
PROBING_SECONDS = 3_600  # until each probe has passed often enough; a soak comes on top
UNIT_SECONDS = 60  # of a unit of systemd that belongs to an app: it is asked, stopped, started
SLACK_SECONDS = 90  # of a state beyond what its own time-outs make: stops, probers, a slow disk
CLEANING_SECONDS = 300  # old releases and blobs go; what is left goes after the next install
REARM_SECONDS = 30  # least of a time-out after a boot: the machine has just begun
STARTS = 3  # starts of an uncommitted release before it counts as a crash loop
KEEP_RELEASES = 3  # of one app, those that are needed or pinned among them
KEEP_LEAST = 2  # what runs and the way back: an owner cannot ask for fewer
KEEP_MOST = 20
PINS = 64  # releases that owners keep by hand, of all apps
PINS_BYTES = 16 * KIB
EARLY_FOLDERS = 64  # of a release that comes in, held open at a time
UNNAMED_BYTES = 64 * MIB  # of small blobs that a crash may take with it, while they come in
UNNAMED_SECONDS = 10  # or what came in so long, where that is less
BLOB_UNUSED_SECONDS = 3600  # a blob that nothing names stays: a cut-off install goes on with it
BLOB_SWEEP_SECONDS = 900  # between two looks for such blobs: each costs as much as 1,000 files
FREE_PERCENT = 3  # of the file system kept free
FREE_BYTES = 512 * MIB  # kept free, whichever is less of the two: a small disk is still of use
INBOX_SECONDS = 24 * 3600  # what a mirror was sent and nothing names is dropped after this
MIRROR_FREE_BYTES = 64 * MIB  # a mirror takes nothing below this
INODES_KEPT = 1_024  # kept free, or FREE_PERCENT of them where that is less
BALLAST_BYTES = MIB  # given up so that a roll-back can always write
OUTPUT_BYTES = 64 * KIB  # captured of one hook or probe
OUTPUT_HEAD_BYTES = 16 * KIB  # of them its first ones: what went wrong often stands there
HOOK_MEMORY_BYTES = 512 * MIB  # address space of each process of a hook in the sandbox
HOOK_TASKS = 128  # processes and threads of a hook in the sandbox
HOOK_FILES_BYTES = 64 * MIB  # what a hook may put into its private /tmp, which is memory
HOLD_SECONDS = 7 * 86400  # an owner's hold: no update lock that somebody forgot
HOLD_CHARACTERS = 120  # why: 64 of them fit the one message that a status is
HOLDS = 65  # the 64 apps that a status tells of, and the node itself
FETCH_SECONDS = 3600  # all blobs of one release; then the next try goes on at the byte
FETCH_MOST_SECONDS = 86400  # what an owner may allow instead: 1 TiB at 12 MB/s
DRIFT_SECONDS = 24 * 3600  # between two looks at every installed file
DRIFT_LOOKS_BYTES = 64 * KIB  # when each app was looked at last
DRIFT_BYTES_PER_SECOND = 50_000_000  # hashed by such a look: a disk has other things to do
OWNER_WINDOWS = 16  # in node.toml, and in one file of apps.d
WINDOW_SECONDS = 7 * 86400  # one maintenance window
CHECK_AGAIN_SECONDS = 60  # after a hook `check` that says "not now"
HOLDS_BYTES = 96 * KIB  # that many holds with reasons of four-byte characters
LOG_LINES = 60  # a minute from one place of the code: journald drops 10,000 in 30 s of a service
LOG_CHARACTERS = 2_000  # one value of one event in a log: a line is read whole by journald
APP_LOG_BYTES = MIB  # one log file of an app; the one before it is kept as well
APP_TASKS = 4_096  # processes and threads of one app: a Java service has hundreds, a bomb them all
RESTART_STEADY_SECONDS = 60  # an app that lived this long is at once started again when it ends
RETRY_FIRST_SECONDS = 60  # after an interrupted install; twice as long after each further one
RETRY_LONGEST_SECONDS = 3_600  # a node that was cut off for a week looks again within the hour
STEPS_BACK = 8  # of TRANSITIONS: kept for the way back, which is the same for every release
WAYS_BACK = 3  # a roll-back is tried as often before a person is called
CONVERSATIONS = 16  # of one user with apply at once; one more is hung up on
IDLE_THREADS = 2  # of apply, kept for the next conversations
FIRST_WORD_SECONDS = 10  # until whoever opened a conversation or stream says what he wants
ORDER_STREAMS = 4  # of gateways at once; apply works on one and answers the others `busy`
ORDERS_BYTES = 128 * KIB  # the last order or alarm of each app: two digests of 500 apps
RECEIPTS_KEPT = 64  # after they were taken: a repeated order is answered with them
RECEIPT_BODY_BYTES = 3 * KIB - 1  # before padding: with both seals below POST_BYTES
RECEIPT_FILE_BYTES = 8 * KIB  # one receipt on disk, with both seals in base64
APPS_TOLD = 64  # of one node in its status: it must fit one message
TROUBLES_TOLD = 8  # of one node in its status
DIFFERENCES_TOLD = 1_000  # of one release by `node verify`
STAMP_BYTES = 4 * KIB  # of a timestamp that a status tells: with one signature it has 500
CARD_BYTES = 4 * KIB  # who a node is, beside its keys
PROBER_LINE_BYTES = 256 * KIB  # one question to a prober: 32,768 members of an app
PROBER_HEAD_BYTES = 64 * KIB  # of an app's answer over HTTP
PROBER_GRPC_BYTES = 4 * KIB  # of an app's answer over gRPC: two bytes are enough
NODE_METRICS_SECONDS = 15  # between two writings of a node's figures: a usual scrape interval
NODE_METRICS_BYTES = 64 * KIB  # 64 apps are 21 KB
STOP_SECONDS = 10  # SIGTERM to SIGKILL
UNIT_STOP_SECONDS = 120  # until the units of an app have ended: systemd itself kills after 90
UNITS = 8  # units of systemd that an owner gives to one app
UNIT_STATE_BYTES = 4 * KIB  # five lines of systemctl; the names of an app's units
IPC_BYTES = 64 * KIB  # one message between fetch and apply
INLINE_BYTES = 16 * KIB  # of a metadata file that travels in such a message, and not in a pipe
SEEN_BYTES = 40 * KIB  # a snapshot that a node hands back: it must fit one such message in base64

# Key files (libsodium Argon2id)
KEYFILE_BYTES = 16 * KIB
ARGON2_OPS_MIN = 3
ARGON2_OPS_MAX = 10
ARGON2_MEM_MIN_BYTES = 256 * MIB
ARGON2_MEM_MAX_BYTES = 2 * GIB
PASSPHRASE_CHARACTERS_MIN = 12

# Keys in tokens and key services
KEY_URI_CHARACTERS = 1_024  # a resource name of a cloud's key is 300
SIGNATURE_BYTES = 4 * KIB  # ML-DSA-65 has 3,309
KEY_RECORDS = 256  # keys outside files that one machine knows of
TOKENS = 64  # slots of one PKCS#11 module

# Certificates
CA_ROOT_SECONDS = 10 * 365 * 86400
ISSUER_SECONDS = 365 * 86400
ISSUER_OVERLAP_SECONDS = 14 * 86400  # a new issuer waits this long for nodes that lack it
ROOT_OVERLAP_SECONDS = 90 * 86400  # both CA roots stay in tls.json at least so long
GATEWAY_LEAF_SECONDS = 24 * 3600
SERVICE_LEAF_SECONDS = 7 * 86400
OPERATOR_LEAF_SECONDS = 10 * 3600
OPERATOR_LEAF_LONGEST_SECONDS = 13 * 3600  # as accepted; issued for 8 to 12 h
LEAF_SLACK_SECONDS = 3600  # a verifier accepts this much above the issued life
BOOT_LEAF_SECONDS = 10 * 365 * 86400
BACKDATE_SECONDS = 300
PENDING_KEY_SECONDS = 600  # a listener's fresh key waits that long for its certificate
RENEWAL_LATE_SECONDS = 2 * 86400  # of failed renewals: an alarm, 2 days before a service leaf ends
RENEWALS_AT_ONCE = 8  # listeners renewed at the same time
RENEWAL_RETRY_SECONDS = 3600  # longest pause after a renewal that failed
RECHECK_SECONDS = 5  # a running call's peer is checked again this often

# Warnings: this long before its end a thing is told by inventory, doctor, log and metric
WARN_CA_ROOT_SECONDS = 180 * 86400  # every host must have the next one before
WARN_ISSUER_SECONDS = 90 * 86400  # both issuers overlap this long
WARN_ROOT_SECONDS = 60 * 86400  # root and targets: people must meet
WARN_FLEET_SECONDS = 30 * 86400  # directory and policy
WARN_APPROVAL_SECONDS = 14 * 86400  # an approval role needs its operators
WARN_REVOCATIONS_SECONDS = 7 * 86400  # of 30 days; one signature renews it
WARN_NODE_LEAF_SECONDS = 72 * 3600  # of 7 days; renewal begins long before
WARN_SERVICE_LEAF_SECONDS = 72 * 3600  # mirror, letterbox, gateway-admin
WARN_GATEWAY_LEAF_SECONDS = 8 * 3600  # of 24 hours; renewed after 12
WARN_OPERATOR_LEAF_SECONDS = 3600  # of 10 hours
WARN_TIMESTAMP_SECONDS = 12 * 3600  # of 24 hours; signed again after 6
WARN_SNAPSHOT_SECONDS = 2 * 86400  # snapshot and gates; signed again long before
WARN_LOG_SECONDS = 3600  # between two log lines about the same thing
METRICS_SECONDS = 60  # between two writings of the metrics file

# Log-in
LOGIN_SECONDS = 60  # life of a nonce, and longest connection to the log-in port
LOGIN_FAILURES = 5  # of one source address in LOGIN_WINDOW_SECONDS
LOGIN_WINDOW_SECONDS = 60
LOGIN_PAUSE_SECONDS = 900  # of that address; an account is never paused
LOGIN_SOURCES = 4_096  # addresses remembered
LOGIN_BYTES = 16 * KIB  # envelope, and request; an ML-DSA-65 signature is 4.4 KiB in base64
LOGIN_CALLS = 32  # open at once, of all callers
LOGIN_IDLE_MILLISECONDS = 5_000  # an idle connection to the log-in port ends

# gRPC servers
HANDSHAKE_MILLISECONDS = 3_000
CONNECTION_AGE_MILLISECONDS = 600_000
CONNECTION_GRACE_MILLISECONDS = 30_000
STREAMS_PER_CONNECTION = 32
CONNECTIONS = 64  # gateway, mirror, letterbox
NODE_CONNECTIONS = 16
NODE_KEEPALIVE_MILLISECONDS = 10_000  # a node that lost power is dialled anew while it can confirm
KEEPALIVE_MILLISECONDS = 300_000

# The metadata door: trust files from anybody whom a CA root of the fleet vouches for
DOOR_BYTES = 8 * MIB  # one call: 10 full directory shards; a larger fleet takes several calls
DOOR_DOCUMENT_BYTES = SHARD_BYTES  # the largest document of an offline role
DOOR_FILES = 1_024  # one call: 64 root steps, 256 shards, and room
DOOR_CALLS_PER_MINUTE = 10  # of one address
DOOR_CALLS = 4  # at once, of all addresses; of one address: 1
DOOR_SECONDS = 60  # one call in all
DOOR_CONNECTIONS = 64
DOOR_IDLE_MILLISECONDS = 5_000  # a connection to the door without a call ends: others need it
DOOR_LISTING_BYTES = 16 * KIB  # names the newest version of each offline role
DOOR_ROLES = 128  # root, targets, revocations and the fleet role of each environment
DOOR_RELOAD_SECONDS = 2  # until a service acts on trust files that came by a folder

# Gateway
LIST_ROWS = 100
ROLLOUTS_PER_ENV = 4
HANDSHAKES_AT_ONCE = 64
DIAL_SECONDS = 5
COLLECT_SECONDS = 2  # between letterbox visits while a roll-out runs
COLLECT_IDLE_SECONDS = 60  # between visits otherwise
BLOCKED_SECONDS = 24 * 3600  # a condition that stays unmet halts the roll-out
SILENT_SECONDS = 900  # after a wave's deadline, for a pull node's word
REDIAL_SECONDS = 5  # first pause before an unreachable node is dialled again; doubles
REDIAL_MAX_SECONDS = 300
AUDIT_RESERVE_BYTES = MIB
ADDRESSES = 100_000  # rows of where to dial
TRUST_SUBMIT_BYTES = 64 * MIB  # one submission of trust files: 256 shards of 128 KiB and more
