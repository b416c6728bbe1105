"""`fastjmix envelope`: the group of its commands.

Exit codes: 0 done, or valid; 1 not valid, or refused: nothing was written; 2 usage, configuration
or a key; 130 interrupted.
"""

from __future__ import annotations

from typing import Final

from fastjmix.cli.lazy import Deferred, command_group

COMMANDS: Final = {
    "inspect": Deferred(
        "fastjmix.cli.envelope.inspect",
        "Show what an envelope says of itself: studies, sizes, hashes, signatures, audit trail.",
    ),
    "verify": Deferred(
        "fastjmix.cli.envelope.verify",
        "Prove envelopes: structure, schemas' rules, every hash, signatures, encryption.",
    ),
    "extract": Deferred(
        "fastjmix.cli.envelope.extract",
        "Write an envelope's members as files below a folder.",
    ),
    "decrypt": Deferred(
        "fastjmix.cli.envelope.decrypt",
        "Write an encrypted envelope as an open one, a ZIP with the same id and the same files.",
    ),
    "keygen": Deferred(
        "fastjmix.cli.envelope.keygen",
        "Make a private key, PEM, mode 0600; its public half (base64) goes to stdout.",
    ),
    "build": Deferred(
        "fastjmix.cli.envelope.build",
        "Make an envelope of DICOM files, as the pipeline would; each file is kept byte for byte.",
    ),
    "convert": Deferred(
        "fastjmix.cli.envelope.convert",
        "Make an envelope of another's instances, in another profile.",
    ),
}


command = command_group(
    "envelope",
    COMMANDS,
    "Build, inspect, verify, extract, decrypt and convert JMIX envelopes; make keys.",
    "Each reads a ZIP or a folder, of either profile, with or without a top folder. "
    "Each says more with --help.",
)
