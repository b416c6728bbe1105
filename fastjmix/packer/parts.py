"""Makes the parts of one packer and connects them. Nothing runs here.

A part gets the parts that it calls, which are made before it: no two call each other. The
docstring of this package shows how an instance goes from one to the next.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

from isal.isal_zlib import crc32

from fastjmix._core import Intake
from fastjmix.config import Config
from fastjmix.ipc.channels import Channels
from fastjmix.ipc.ingest_rules import IngestRulesTable
from fastjmix.ipc.shared_lanes import SharedLanes
from fastjmix.packer.adoption import Adoption
from fastjmix.packer.appender import Appender
from fastjmix.packer.arrivals import Arrivals
from fastjmix.packer.awaiting_upstream import AwaitingUpstream
from fastjmix.packer.background_digests import BackgroundDigests
from fastjmix.packer.digests import Digests
from fastjmix.packer.draining import Draining
from fastjmix.packer.envelope_choice import EnvelopeChoice
from fastjmix.packer.failed_envelopes import FailedEnvelopes
from fastjmix.packer.group_commit import GroupCommit
from fastjmix.packer.joiner import Joiner
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.recovery_queue import RecoveryQueue
from fastjmix.packer.refusals import Refusals
from fastjmix.packer.reservation import Reservation
from fastjmix.packer.routes import Routes
from fastjmix.packer.seal_schedule import SealSchedule
from fastjmix.packer.sealer import Sealer
from fastjmix.packer.senders import Senders
from fastjmix.packer.spill_writer import SpillWriter
from fastjmix.packer.spilled_instances import SpilledInstances
from fastjmix.packer.statuses import Statuses
from fastjmix.packer.storage_health import StorageHealth
from fastjmix.packer.takeover import Takeover
from fastjmix.packer.worker import Worker
from fastjmix.spool import FreeSpace, Spool


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that the loop runs. `joins` is the thread that joins spilled instances; `sealing`
    the one that encrypts and recovers."""

    intake: Intake
    envelopes: OpenEnvelopes
    statuses: Statuses
    senders: Senders
    arrivals: Arrivals
    spill_writer: SpillWriter
    spilled: SpilledInstances
    joins: Worker
    commit: GroupCommit
    awaiting: AwaitingUpstream
    digests: BackgroundDigests
    sealer: Sealer
    schedule: SealSchedule
    sealing: Worker
    recoveries: RecoveryQueue
    reservation: Reservation
    health: StorageHealth
    takeover: Takeover
    adoption: Adoption
    draining: Draining


def connect(
    config: Config,
    rules_table: IngestRulesTable,
    number: int,
    shared_lanes: SharedLanes,
    channels: Channels,
    spool: Spool,
) -> Parts:
    """Returns the connected parts of the packer `number`.

    It is longer than other functions: every part is here, after all that it calls. In two functions
    half of the parts would have to be passed from one to the other.
    """
    name = f"packer-{number}"
    process = shared_lanes.receivers + number
    lanes, metrics = shared_lanes.passage.lanes, channels.metrics
    wake = partial(os.eventfd_write, shared_lanes.wake[process], 1)
    space = FreeSpace.of(config, metrics)
    adoption = Adoption(rules_table.rows, spool, space)
    rules = adoption.rules

    intake = Intake(lanes, process, adoption.hashers, crc32)
    statuses = Statuses(intake, shared_lanes)
    awaiting = AwaitingUpstream(statuses, channels.outcomes[name].recv)
    health = StorageHealth(spool, metrics)
    sealing, joins = Worker(wake), Worker(wake)

    envelopes, digests = OpenEnvelopes(metrics), Digests()
    recoveries = RecoveryQueue(spool, channels, name, sealing, health.recovery_failed)
    failed = FailedEnvelopes(envelopes, digests, recoveries, health, awaiting)
    commit = GroupCommit(statuses, health, failed, metrics.histogram("commit_seconds"))

    senders = Senders(intake, lanes, rules, envelopes, spool, metrics)
    sealer = Sealer(name, channels, spool, envelopes, digests, failed, sealing)
    schedule = SealSchedule(envelopes, senders, commit, sealer)

    spilled = SpilledInstances(spool, space, name, joins)
    reservation = Reservation(metrics, envelopes, sealer, recoveries, spilled)
    choice = EnvelopeChoice(
        number, lanes, spool, space, envelopes, schedule, reservation, channels.events
    )
    refusals = Refusals(statuses, spilled, health)
    appender = Appender(
        intake, metrics, space, envelopes, senders, digests, reservation, commit, sealer, awaiting
    )
    joiner = Joiner(
        intake, joins, spilled, envelopes, choice, commit, appender, refusals, senders, reservation
    )
    routes = Routes(lanes, statuses, spilled, metrics, channels.events)
    arrivals = Arrivals(
        intake, rules, health, envelopes, spilled, choice, appender, joiner, refusals, routes
    )
    writer = SpillWriter(intake, rules, spilled, health, refusals, reservation, statuses, routes)
    takeover = Takeover(
        number, shared_lanes.packers, name, spool, health, envelopes, commit, recoveries
    )
    return Parts(
        intake=intake,
        envelopes=envelopes,
        statuses=statuses,
        senders=senders,
        arrivals=arrivals,
        spill_writer=writer,
        spilled=spilled,
        joins=joins,
        commit=commit,
        awaiting=awaiting,
        digests=BackgroundDigests(digests, commit, health),
        sealer=sealer,
        schedule=schedule,
        sealing=sealing,
        recoveries=recoveries,
        reservation=reservation,
        health=health,
        takeover=takeover,
        adoption=adoption,
        draining=Draining(channels.drain, process, schedule, envelopes, awaiting, (sealing, joins)),
    )
