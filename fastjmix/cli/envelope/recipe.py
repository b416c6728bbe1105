"""The options of `envelope build` and `envelope convert` that say what is made, as a Recipe.

Guaranteed: an option that would have no effect is a usage error, and so are options that contradict
each other.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from fastjmix.cli.envelope.options import PARTY
from fastjmix.cli.options import PATH

if TYPE_CHECKING:
    from fastjmix.jmix.write.parties import Entity, Published
    from fastjmix.tools.envelope.recipe import Recipe

PAYLOAD_HASHES: Final = ("tree", "stream")


@dataclass(frozen=True, slots=True)
class RecipeOptions:
    """The values of the options, as they are given."""

    config: Path | None
    profile: str
    sender: str | None
    receiver: tuple[str, ...]
    payload_hash: str
    sign_with: Path | None
    encrypt_for: Path | None
    dialect: str
    skip_hashing: bool
    skip_listing: bool


def recipe_options(profile: str | None, config_help: str) -> Callable[..., Any]:
    """Returns a decorator that declares the options. The command gets them as `wanted`.

    `profile` is the default one; None: it must be given.
    """
    declared = (
        click.option("-c", "--config", type=PATH, help=config_help),
        click.option(
            "--profile", default=profile, required=profile is None, help="harmony or jmix-1.0."
        ),
        click.option("--sender", metavar=PARTY, help="For jmix-1.0."),
        click.option(
            "--receiver", multiple=True, metavar=PARTY, help="For jmix-1.0; repeatable."
        ),
        click.option("--payload-hash", default="tree", help="tree or stream."),
        click.option(
            "--sign-with", type=PATH, metavar="FILE",
            help="Ed25519 private key: writes manifest.jws.",
        ),
        click.option(
            "--encrypt-for", type=PATH, metavar="FILE",
            help="The recipient's X25519 public key.",
        ),
        click.option("--dialect", default="php", help="Whose encryption: php, js or rs."),
        click.option("--skip-hashing", is_flag=True, help="No hashes."),
        click.option("--skip-listing", is_flag=True, help="No listing of files."),
    )  # fmt: skip

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        command = _with_options_collected(function)
        for option in reversed(declared):
            command = option(command)
        return command

    return decorate


def _with_options_collected(function: Callable[..., None]) -> Callable[..., None]:
    """Returns a function of the single options, which gives them to this one as `wanted`."""
    names = [field.name for field in dataclasses.fields(RecipeOptions)]

    @functools.wraps(function)
    def collected(**values: Any) -> None:
        wanted = RecipeOptions(**{name: values.pop(name) for name in names})
        function(wanted=wanted, **values)

    return collected


def recipe_of(wanted: RecipeOptions) -> Recipe:
    """Returns what is to be made. Raises BadParameter, and ConfigError for a key that cannot be
    used or a configuration that is wrong."""
    protection = _protection(wanted)
    recipe = _given(wanted) if wanted.config is None else _configured(wanted, wanted.config)
    if not protection:
        return recipe
    if recipe.published is None:
        raise click.BadParameter(
            "what is signed or encrypted is of profile jmix-1.0, with a sender and a receiver"
        )
    return replace(recipe, published=replace(recipe.published, **protection))


def _given(wanted: RecipeOptions) -> Recipe:
    """Returns the recipe that the options describe."""
    from fastjmix.jmix.write import profiles
    from fastjmix.tools.envelope.recipe import Recipe

    profile, form = wanted.profile, wanted.payload_hash
    if profile not in profiles.NAMES:
        raise click.BadParameter(f"--profile {profile!r} is none of {', '.join(profiles.NAMES)}")
    if form not in PAYLOAD_HASHES:
        raise click.BadParameter(f"--payload-hash {form!r} is neither tree nor stream")
    return Recipe(
        profile,
        skip_hashing=wanted.skip_hashing,
        skip_listing=wanted.skip_listing,
        payload_hash="stream" if form == "stream" else "tree",
        published=_parties(wanted),
    )


def _parties(wanted: RecipeOptions) -> Published | None:
    from fastjmix.jmix.write.parties import Published

    if not (wanted.sender or wanted.receiver):
        return None
    if wanted.profile == "harmony":
        raise click.BadParameter("profile harmony has no place for a sender or a receiver")
    if not wanted.sender or not wanted.receiver:
        raise click.BadParameter("give both --sender and --receiver")
    return Published(_entity(wanted.sender), tuple(_entity(one) for one in wanted.receiver))


def _entity(text: str) -> Entity:
    from fastjmix.jmix.write.parties import Entity

    known, _, more = text.partition(",")
    name, _, contact = more.partition(",")
    if not known.strip():
        raise click.BadParameter("a sender and a receiver need an id")
    return Entity(known.strip(), name.strip() or None, contact.strip() or None)


def _configured(wanted: RecipeOptions, path: Path) -> Recipe:
    """Returns the recipe of a configuration's first DICOM listener."""
    from fastjmix.config import load
    from fastjmix.tools.envelope.recipe import Recipe

    for option in ("sender", "receiver", "payload_hash", "skip_hashing", "skip_listing"):
        if _is_given(option):
            name = option.replace("_", "-")
            raise click.BadParameter(f"--{name} beside -c: the configuration says that already")
    listeners = load(path).dicom
    if not listeners:
        raise click.BadParameter(f"{path}: has no pipeline that takes DICOM")
    rules = listeners[0].builder
    if _is_given("profile") and wanted.profile != rules.profile:
        message = f"--profile is {wanted.profile}, and {path} says {rules.profile}"
        raise click.BadParameter(message)
    return Recipe(
        rules.profile,
        rules.digest,
        rules.skip_hashing,
        rules.skip_listing,
        rules.payload_hash,
        rules.published,
    )


def _is_given(option: str) -> bool:
    """Returns whether an option is on the command line, whatever its value."""
    context = click.get_current_context()
    return context.get_parameter_source(option) is ParameterSource.COMMANDLINE


def _protection(wanted: RecipeOptions) -> dict[str, Any]:
    """Returns fields of Published. Raises ConfigError for a key that cannot be used."""
    found: dict[str, Any] = {}
    if wanted.sign_with is None and wanted.encrypt_for is None:
        return found
    import base64

    from fastjmix.config import key_files
    from fastjmix.jmix import keys
    from fastjmix.jmix.write import encryption, parties

    if wanted.dialect not in encryption.DIALECTS:
        raise click.BadParameter(f"--dialect {wanted.dialect!r} is none of php, js, rs")
    if wanted.sign_with is not None:
        key_files.load(keys.signing_key, wanted.sign_with)
        found["signing"] = parties.Signing(str(wanted.sign_with))
    if wanted.encrypt_for is not None:
        public = key_files.load(keys.recipient_public, wanted.encrypt_for)
        text = base64.b64encode(public).decode()
        found["encryption"] = parties.Encryption(text, wanted.dialect)  # type: ignore[arg-type]
    return found
