"""Bounds of an HTTP server of ours. Each is read when it applies, so that a test can change it."""

from __future__ import annotations

from typing import Final

MAX_CONNECTIONS: Final = 512
"""Connections a listener answers at once: well under the usual limit of 1024 descriptors."""

SPARE_CONNECTIONS: Final = 64
"""Beyond those: so many get 503 if they send a request, all others are closed at once."""

MAX_CONNECTIONS_EACH: Final = 256
"""Connections of one address: no single one takes all, and a proxy before us has plenty."""

MAX_UPLOADS: Final = 4
"""Archives received at once; each costs a descriptor, a thread's time and disk bandwidth."""

PARTS_MAX: Final = 64
"""Envelopes of a study that one answer joins: each is an open file. A larger study is fetched one
envelope after the other."""

JOINED_AT_ONCE: Final = 4
"""Such answers at once: together they hold 256 descriptors."""

KEEPALIVE_SECS: Final = 75.0
"""A connection without a whole request is closed after this: idle and slow headers alike."""

BODY_IDLE_SECS: Final = 60.0
"""Longest silence within a request body."""

BODY_RATE_MIN: Final = 1024
"""Bytes per second that a body must reach on average, after its first BODY_IDLE_SECS."""

WRITE_STALL_SECS: Final = 60.0
"""Longest time in which a client takes none of a response."""

ANSWER_RATE_MIN: Final = 16 * 1024
"""Bytes per second of a response that a client must take, after its first WRITE_STALL_SECS."""

LINGER_SECS: Final = 5.0
"""How long the rest of a refused body is drained, so that the client can read the refusal."""

PIECE_BYTES: Final = 1 << 20
"""Bytes read at once by a worker thread."""

MAX_HEADERS: Final = 64
MAX_LINE_BYTES: Final = 8190

SHOWN_PATH: Final = 200
"""Characters of a path that a log line repeats."""

SHOWN_TYPE: Final = 80
"""Characters of a content type that a refusal repeats."""

SHOWN_CODING: Final = 40
"""Characters of a content coding that a refusal repeats."""
