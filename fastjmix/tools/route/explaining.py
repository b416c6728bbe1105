"""Finds out what a configuration's routes make of one instance. No node need run.

Guaranteed: the rules are those that a node with this configuration would use, in the same code.
Facts that only a whole envelope has (its bytes, its number of instances) are left open.
"""

from __future__ import annotations

import ipaddress
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fastjmix.config import Config, DicomListener
from fastjmix.dicom.dataset import describe_series, read_file_meta
from fastjmix.dicom.head import data_set_head
from fastjmix.errors import UnreadableHead, UsageError, reason
from fastjmix.routing.router import Step, explained
from fastjmix.routing.rules import EnvelopeFacts, InstanceFacts, Rule, study_age_days

META_BYTES = 4096
"""Bytes in which a file's File Meta Information is looked for: senders write some 400."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The instance that is asked about: a file, and how it would come. `peer` "": unknown;
    `called_ae` "": the endpoint's own AE title."""

    file: Path
    calling_ae: str
    called_ae: str = ""
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer of one endpoint's route. `steps` is empty where there is no route.

    `accepts` False: the endpoint rejects the association, whatever the rules are.
    """

    listener: DicomListener
    accepts: bool
    steps: tuple[Step, ...]

    @property
    def rule(self) -> Rule | None:
        """The rule that applies, unless one of `open` does; None: the pipeline's own settings."""
        return next((one.rule for one in self.steps if one.result == "applies"), None)

    @property
    def open(self) -> tuple[Rule, ...]:
        """The rules before it that only the whole envelope decides."""
        return tuple(one.rule for one in self.steps if one.result == "at the seal")

    def upstreams(self, rule: Rule | None) -> tuple[str, ...]:
        """Returns the names of the upstreams that an envelope goes to by a rule."""
        return rule.upstreams if rule else tuple(one.name for one in self.listener.upstreams)

    def as_json(self) -> dict[str, object]:
        """Returns the explanation as JSON can hold it."""
        listener = self.listener
        return {
            "endpoint": listener.endpoint,
            "pipeline": listener.pipeline,
            "route": listener.route.name if listener.route else None,
            "accepts_association": self.accepts,
            "rules": [
                {"rule": one.rule.name, "result": one.result, "why": one.why} for one in self.steps
            ],
            "decision": self._decision(self.rule),
            "decided_at_the_seal": [self._decision(one) for one in self.open],
        }

    def _decision(self, rule: Rule | None) -> dict[str, object]:
        given = asdict(rule or Rule(""))
        answer = {"status": f"{given['status']:04X}", "comment": given["comment"]}
        return {
            "rule": given["name"] or None,
            "action": given["action"],
            **(answer if given["action"] == "reject" else {}),
            "backends": self.upstreams(rule),
            "priority": given["priority"],
            "tags": given["tags"],
            "profile": given["profile"] or self.listener.builder.profile,
        }


def explain(config: Config, asked: Asked) -> list[Explanation]:
    """Returns an explanation for each endpoint that answers to the called AE title.

    Raises UsageError for a file that is no instance, or an AE title or address that is none.
    """
    if asked.peer:
        _require_address(asked.peer)
    instance, envelope = _read(asked)
    found = [
        _explained(one, asked, instance, envelope)
        for one in {one.endpoint: one for one in config.dicom}.values()
        if asked.called_ae in ("", one.ae_title) or one.accept_any_called_aet
    ]
    if not found:
        known = ", ".join(dict.fromkeys(one.ae_title for one in config.dicom)) or "none"
        raise UsageError(f"no endpoint is called {asked.called_ae}", f"There is: {known}.")
    return found


def _explained(
    listener: DicomListener, asked: Asked, instance: InstanceFacts, envelope: EnvelopeFacts
) -> Explanation:
    here = instance._replace(called_ae=asked.called_ae or listener.ae_title)
    steps = explained(listener.route, here, envelope) if listener.route is not None else ()
    accepts = listener.calling is None or asked.calling_ae in listener.calling
    return Explanation(listener, accepts, tuple(steps))


def _require_address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise UsageError(f"no address: {text!r}", "For example 10.1.2.3 or fd00::1.") from None


def _read(asked: Asked) -> tuple[InstanceFacts, EnvelopeFacts]:
    """Returns what the file says. Raises UsageError."""
    try:
        with asked.file.open("rb", buffering=0) as file:
            descriptor = file.fileno()
            meta, offset = read_file_meta(os.pread(descriptor, META_BYTES, 0))
            syntax = meta["transfer_syntax_uid"]

            def read_at(at: int, length: int) -> bytes:
                return os.pread(descriptor, length, at)

            size = os.fstat(descriptor).st_size - offset
            head, _ = data_set_head(read_at, offset, size, syntax)
    except OSError as problem:
        raise UsageError(f"{asked.file}: {reason(problem)}") from problem
    except UnreadableHead as problem:
        raise UsageError(
            f"{asked.file}: {problem}", "It must be a DICOM Part 10 file."
        ) from problem
    said = describe_series(head.elements)
    instance = InstanceFacts(
        asked.calling_ae.strip(),
        asked.called_ae.strip(),
        asked.peer,
        meta["sop_class_uid"],
        said.modality,
        syntax,
    )
    age = study_age_days(said.study_date, time.time())
    return instance, EnvelopeFacts(said.study_description, said.accession_number, age, None, None)
