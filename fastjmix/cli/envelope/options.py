"""Arguments, options and examples that several of the envelope commands have."""

from __future__ import annotations

from typing import Final

import click

from fastjmix.cli.options import PATH, Decorator

PARTY: Final = "ID[,NAME[,CONTACT]]"


def source_argument() -> Decorator:
    """Returns the argument that names one envelope, as `source`."""
    return click.argument("source", type=PATH, metavar="FILE|DIR", help="The envelope.")


def output_option(metavar: str = "PATH", text: str = "What to write.") -> Decorator:
    """Returns the option that names what to write, as text: a slash at its end counts."""
    return click.option("-o", "--output", required=True, metavar=metavar, help=text)


def new_path_option() -> Decorator:
    """Returns the output option of a command that writes a file, or a folder of files."""
    return output_option(text="What to write; with a slash at its end: a folder.")


def force_option() -> Decorator:
    """Returns the option --force."""
    return click.option("--force", is_flag=True, help="Replace what is there.")


def key_option(*, required: bool) -> Decorator:
    """Returns the option that names the recipient's private key."""
    return click.option(
        "--key", type=PATH, required=required, metavar="FILE",
        help="The recipient's X25519 private key: PEM, raw or base64.",
    )  # fmt: skip


def examples(*lines: str) -> str:
    """Returns an epilog with examples, whose lines click leaves as they are ("\\b")."""
    return "\n".join(["\b", "Examples:", *(f"  fastjmix envelope {line}" for line in lines)])
