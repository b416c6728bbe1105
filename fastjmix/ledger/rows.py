"""The answers of the ledger, as frozen values. Each has `as_json()`: a dict that JSON can hold.

Times are Unix seconds, None where unknown; an unknown text is "". `peer` is an address with port,
or without where only the address is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fastjmix.spool.provenance import WITHHELD


class Row:
    """A dataclass that says itself as JSON."""

    __slots__ = ()

    def as_json(self) -> dict[str, object]:
        """Returns the fields by name."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True, slots=True)
class EnvelopeRow(Row):
    """An envelope. `state` is building, outbox, held, sent, rejected or gone, `since` when that
    began, as far as known, and `reason` why. `at` is when the envelope was opened or came.

    `study_instance_uid` is the first of `studies`; `calling_ae` and `peer` are those of its first
    association, or of the POST that brought it. `rule`, `priority` and `tags` are its ticket's;
    `priority` is "" until that was read.
    """

    number: int
    id: str
    at: float
    state: str
    since: float
    reason: str
    origin: str
    pipeline: str
    upstream: str
    calling_ae: str
    peer: str
    sealed_at: float | None
    instances: int
    bytes: int
    studies: tuple[str, ...]
    accession_number: str
    patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    study_date: str
    study_description: str
    modalities: tuple[str, ...]
    rule: str
    priority: str
    tags: tuple[str, ...]

    @property
    def study_instance_uid(self) -> str:
        """The first study; "" where none is known."""
        return self.studies[0] if self.studies else ""

    def as_json(self, *, patient: bool = True) -> dict[str, object]:
        """Returns the fields by name; without WITHHELD for one who may not know the patient."""
        shown = asdict(self)
        del shown["number"]
        shown["study_instance_uid"] = self.study_instance_uid
        return shown if patient else {k: v for k, v in shown.items() if k not in WITHHELD}


@dataclass(frozen=True, slots=True)
class Page(Row):
    """Envelopes, newest first. `cursor` gets the next page; None: this is the last."""

    envelopes: tuple[EnvelopeRow, ...]
    cursor: str | None

    def as_json(self, *, patient: bool = True) -> dict[str, object]:
        """Returns the envelopes and the cursor."""
        return {
            "envelopes": [one.as_json(patient=patient) for one in self.envelopes],
            "cursor": self.cursor,
        }


@dataclass(frozen=True, slots=True)
class Association(Row):
    """An association. `ended` None: it lives, or its end was never known. `waits` has seconds by
    cause (peer, packer, disk), `statuses` the number of responses by status ("0000")."""

    id: str
    calling_ae: str
    called_ae: str
    peer: str
    implementation_uid: str
    implementation_version: str
    began: float
    ended: float | None
    how: str
    stored: int
    refused: int
    bytes: int
    seconds: float
    pdu_bytes: int
    p50_ms: float | None
    p99_ms: float | None
    waits: Mapping[str, float]
    statuses: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Instance(Row):
    """An instance of an envelope. `association` is an id, "" where unknown; `arrived` None where
    unknown; `kept` False for a repetition of bytes that the envelope held already."""

    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    association: str
    arrived: float | None
    bytes: int
    status: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Attempt(Row):
    """Attempts to deliver, `times` of them with the same outcome in a row, from `began` to `last`.

    `outcome` is delivered, retry, held, refused or verify; `status` is HTTP's; `seconds`, `bytes`
    and `answer`, an excerpt, are the last one's.
    """

    began: float
    last: float
    times: int
    upstream: str
    seconds: float
    bytes: int
    outcome: str
    status: int | None
    reason: str
    answer: str

    def without_answer(self) -> Attempt:
        """Returns the same without the upstream's answer, which may quote the patient."""
        return replace(self, answer="")


@dataclass(frozen=True, slots=True)
class AtUpstream(Row):
    """How an envelope stands at one of several upstreams: `state` is waiting, sent or refused, `at`
    when it ended there, `reason` why it was refused."""

    upstream: str
    state: str
    at: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Move(Row):
    """A change of an envelope's state."""

    at: float
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Action(Row):
    """An action of a person, with the reason that they gave. `envelopes` has ids; `more` counts
    those that are not in it."""

    at: float
    actor: str
    action: str
    why: str
    result: str
    envelopes: tuple[str, ...]
    more: int


@dataclass(frozen=True, slots=True)
class Rejection(Row):
    """Associations that were rejected for the same reason, `times` from `at` to `last`."""

    at: float
    last: float
    times: int
    calling_ae: str
    called_ae: str
    peer: str
    why: str


@dataclass(frozen=True, slots=True)
class Refusal(Row):
    """An instance that was answered with a failure, or (status 0000) that a rule discarded.
    `association` is an id."""

    at: float
    association: str
    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    status: str
    why: str


@dataclass(frozen=True, slots=True)
class ErrorRow(Row):
    """An error of the log, `times` in a row from `at` to `last`. `event` is the log's name."""

    at: float
    last: float
    times: int
    process: str
    event: str
    text: str


@dataclass(frozen=True, slots=True)
class StateCount(Row):
    """How many envelopes are in a state, their bytes, and since when the oldest is."""

    count: int
    bytes: int
    oldest: float | None


@dataclass(frozen=True, slots=True)
class Info(Row):
    """The ledger as a whole. `envelopes` and `instances` count those that are gone from the disk,
    too; `states` does not. `oldest` is when the first envelope was opened; `compared_at` when the
    ledger was last compared with all directories."""

    path: str
    file_bytes: int
    used_bytes: int
    envelopes: int
    instances: int
    associations: int
    oldest: float | None
    compared_at: float | None
    states: Mapping[str, StateCount]


@dataclass(frozen=True, slots=True)
class Step(Row):
    """A step of a story. `kind` is association, ended, refusal, rejection, opened, arrived, sealed,
    attempt, moved or action; `envelope` and `association` are ids or ""; `facts` is the row's."""

    at: float
    kind: str
    envelope: str
    association: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EnvelopeStory(Row):
    """An envelope with all that is known of it. `instances` are those that the word asked for: all
    of the envelope, of the series, or the one; `left_out` counts those of them that are not in it
    (story.PARTS_MAX). `associations` are ids. `at_upstreams` is () for one upstream.
    `part_of` is the id of the envelope that it is a part of, "" for none; `split_into` has the ids
    of its own parts."""

    envelope: EnvelopeRow
    associations: tuple[str, ...]
    instances: tuple[Instance, ...]
    attempts: tuple[Attempt, ...]
    moves: tuple[Move, ...]
    actions: tuple[Action, ...]
    left_out: int = 0
    at_upstreams: tuple[AtUpstream, ...] = ()
    part_of: str = ""
    split_into: tuple[str, ...] = ()

    def as_json(self, *, patient: bool = True) -> dict[str, object]:
        """Returns the envelope's fields, and the lists beside them."""
        return {
            **self.envelope.as_json(patient=patient),
            "associations": list(self.associations),
            "parts": [one.as_json() for one in self.instances],
            "parts_left_out": self.left_out,
            "at_upstreams": [one.as_json() for one in self.at_upstreams],
            "part_of": self.part_of,
            "split_into": list(self.split_into),
            "attempts": [one.as_json() for one in self.attempts],
            "moves": [one.as_json() for one in self.moves],
            "actions": [one.as_json() for one in self.actions],
        }


@dataclass(frozen=True, slots=True)
class Trace(Row):
    """The story of a word. `kind` says what the word is: envelope, association, study, series,
    instance, accession, patient_id, patient_name, ae, peer, or "" where nothing is known of it.

    `envelopes` are the newest, TRACE_MAX (story.py) at most; `more` is True when there are further
    ones. An AE title or an address (`ae`, `peer`) has its newest associations and rejections
    instead, PEER_MAX of each. `left_out` counts associations that are not in it, for each envelope
    that they brought (story.ASSOCIATIONS_MAX). `steps` has everything in order of time.
    """

    word: str
    kind: str
    associations: tuple[Association, ...] = ()
    envelopes: tuple[EnvelopeStory, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    steps: tuple[Step, ...] = field(default=())
    more: bool = False
    left_out: int = 0

    def as_json(self, *, patient: bool = True) -> dict[str, object]:
        """Returns the lists by name."""
        return {
            "word": self.word,
            "kind": self.kind,
            "associations": [one.as_json() for one in self.associations],
            "envelopes": [one.as_json(patient=patient) for one in self.envelopes],
            "refusals": [one.as_json() for one in self.refusals],
            "rejections": [one.as_json() for one in self.rejections],
            "steps": [one.as_json() for one in self.steps],
            "more": self.more,
            "associations_left_out": self.left_out,
        }
