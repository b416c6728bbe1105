"""Delivers envelopes to a bucket of an S3 service as <prefix><id>.zip, by the library obstore.

Guaranteed: an object counts as delivered when the service has it in full length with the checksum
of what went; each request carries a SHA-256, too, with which the service refuses other bytes. No
object is replaced: a small one goes with If-None-Match: *, before a larger one, which goes in
parts, the name is looked up. An object that is there already is the envelope when its ETag is that
of our bytes, or the bytes are equal.
Still wrong: between the look-up and the end of a larger object another writer may take its name.
A process that ends meanwhile leaves parts, which a life-cycle rule of the bucket removes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import obstore

from fastjmix._version import __version__
from fastjmix.config import Upstream
from fastjmix.config.tree import UPLOAD_RATE_MIN, BucketPlace
from fastjmix.failpoints import reach
from fastjmix.uploader.outcome import Disposition, Outcome
from fastjmix.uploader.pace import Pace
from fastjmix.uploader.policy import assess_failure
from fastjmix.uploader.proxies import forget_environment, proxy_of
from fastjmix.uploader.request_body import ArchiveFile, RequestBody
from fastjmix.uploader.targets.contract import Failed, Sealed
from fastjmix.uploader.targets.etag import PartDigests
from fastjmix.uploader.targets.s3_errors import TAKEN, assess_error, silent
from fastjmix.uploader.throttle import Throttle

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, S3Config, S3Store

PART_BYTES_MIN: Final = 5 << 20
"""Bytes of a part, and of the largest object that goes in one request: the least that S3 takes.
Three of them are in memory for each delivery."""

PARTS_MAX: Final = 10_000

READ_BACK_BYTES: Final = 1 << 20
"""Bytes of one piece of an object that is read back."""

RETRIES: Final = 2
"""Retries of a part, in the library: one dropped connection does not cost the parts before it."""


class S3Client:
    """A bucket as a target."""

    def __init__(
        self, upstream: Upstream, place: BucketPlace, pace: Pace, throttle: Throttle
    ) -> None:
        self._upstream = upstream
        self._place = place
        self._limits = pace.time_limits
        self._throttle = throttle

    @property
    def host(self) -> str:
        """Returns the service's host, and the bucket."""
        where = self._place.endpoint or f"https://s3.{self._place.region}.amazonaws.com"
        return f"{urlsplit(where).netloc}/{self._place.bucket}"

    async def deliver(self, sealed: Sealed) -> Outcome:
        """Puts an envelope. VERIFY: an object has its name already, or the service's checksum is
        another. Raises Damaged, FileNotFoundError, OSError."""
        body = sealed.body(self._limits, self._throttle)
        name = sealed.name
        digests = PartDigests(part_bytes(body.size))
        try:
            unconditional = body.size > PART_BYTES_MIN or not self._place.conditional
            if unconditional and await self._find(name) is not None:
                return TAKEN
            await self._put(name, body, digests)
            reach("uploader.answered")
            found = await self._find(name)
        except Failed as failed:
            return failed.outcome
        if found is None or not _is_proved(found, digests):
            return TAKEN
        reason = "the bucket has it, with the checksum of what went"
        return Outcome(Disposition.DELIVERED, reason, status=200)

    async def verify(self, sealed: Sealed, conflict: Outcome) -> Outcome:
        """Compares the object with the envelope: by its ETag, else by its bytes.

        Raises Damaged, OSError.
        """
        try:
            found = await self._find(sealed.name)
            if found is None:
                reason = "the bucket has no object of the envelope's name any more"
                return Outcome(Disposition.RETRY, reason)
            equal = await self._is_equal(sealed, found)
        except Failed as failed:
            return failed.outcome
        if not equal:
            reason = "another object has the envelope's name in the bucket"
            return Outcome(Disposition.REFUSED, reason)
        reason = "the bucket has this very envelope"
        return Outcome(Disposition.DELIVERED, reason, status=200, verified=True)

    async def look_up(self) -> Outcome | None:
        """Asks for a page of names; nothing is changed. Returns why that failed; else None."""
        try:
            async with asyncio.timeout(self._upstream.timeout_secs):
                async for _ in obstore.list(self._store, chunk_size=1):
                    break
        except TimeoutError:
            return assess_failure(silent(self.host))
        except Exception as problem:
            return assess_error(problem, self.host)
        return None

    async def close(self) -> None:
        """Does nothing: the library's connections go with the client."""

    # -- requests --------------------------------------------------------------------------------

    async def _find(self, name: str) -> ObjectMeta | None:
        """Returns what the service says of an object; None where there is none. Raises Failed."""
        try:
            async with asyncio.timeout(self._upstream.timeout_secs):
                return await obstore.head_async(self._store, name)
        except FileNotFoundError:  # also for a bucket that is missing, which a put shows
            return None
        except TimeoutError:
            raise Failed(assess_failure(silent(self.host))) from None
        except Exception as problem:
            raise Failed(assess_error(problem, self.host)) from problem

    async def _put(self, name: str, body: RequestBody, digests: PartDigests) -> None:
        """Sends the bytes. Raises Failed, and what reading our archive raises."""
        pieces = _digested(body, digests)
        if body.size <= PART_BYTES_MIN:
            whole = b"".join([piece async for piece in pieces])
            mode: Any = "create" if self._place.conditional else "overwrite"
            sending: Coroutine[Any, Any, Any] = obstore.put_async(
                self._store, name, whole, mode=mode, use_multipart=False
            )
        else:
            sending = obstore.put_async(
                self._store,
                name,
                pieces,
                use_multipart=True,
                chunk_size=part_bytes(body.size),
                max_concurrency=1,
            )
        try:
            await sending
        except Exception as problem:
            if body.problem is not None:
                raise body.problem from None
            raise Failed(assess_error(problem, self.host)) from problem

    async def _is_equal(self, sealed: Sealed, found: ObjectMeta) -> bool:
        body = sealed.body(self._limits, Throttle(None))
        if found["size"] != body.size:
            return False
        digests = PartDigests(part_bytes(body.size))
        async for _ in _digested(body, digests):
            pass
        return _is_proved(found, digests) or await self._is_read_back(sealed)

    async def _is_read_back(self, sealed: Sealed) -> bool:
        """Returns whether the object has our bytes, read in full. Raises Failed, OSError."""
        ours, at = ArchiveFile(sealed.archive), 0
        try:
            got = await obstore.get_async(self._store, sealed.name)
            async for piece in got.stream(min_chunk_size=READ_BACK_BYTES):
                theirs = bytes(piece)
                if await asyncio.to_thread(ours.read, len(theirs), at) != theirs:
                    return False
                at += len(theirs)
        except Exception as problem:
            raise Failed(assess_error(problem, self.host)) from problem
        return at == ours.size

    # -- the library -----------------------------------------------------------------------------

    @cached_property
    def _store(self) -> S3Store:
        """The library's client, made when first needed. Raises OSError (the ca_file)."""
        from obstore.store import S3Store

        client = self._client_options()
        forget_environment()
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]  # the library would take a key, or an endpoint, from there
        return S3Store(
            self._place.bucket,
            prefix=self._place.prefix or None,
            config=self._config(),
            client_options=client,
            retry_config={"max_retries": RETRIES},
        )

    def _config(self) -> S3Config:
        place, credentials = self._place, self._upstream.credentials
        config: S3Config = {
            "region": place.region,
            "virtual_hosted_style_request": not place.path_style,
            "checksum_algorithm": "sha256",
        }
        if place.endpoint is not None:
            config["endpoint"] = place.endpoint.rstrip("/")
        if credentials is None:
            config["skip_signature"] = True
            return config
        config["access_key_id"] = credentials.username.reveal()
        config["secret_access_key"] = credentials.password.reveal()
        if credentials.token:
            config["session_token"] = credentials.token.reveal()
        return config

    def _client_options(self) -> ClientConfig:
        """Returns the options of HTTP. A request has the time that a part takes on a slow line."""
        upstream, endpoint = self._upstream, self._place.endpoint or "https://aws"
        secs = upstream.timeout_secs + PART_BYTES_MIN / UPLOAD_RATE_MIN
        options: ClientConfig = {
            "allow_http": endpoint.startswith("http:"),
            "connect_timeout": timedelta(seconds=self._limits.connect),
            "timeout": timedelta(seconds=secs),
            "user_agent": f"fastjmix/{__version__}",
        }
        if upstream.ca_file is not None:
            options["root_certificate"] = upstream.ca_file.read_bytes()
        proxy = proxy_of(upstream, endpoint)
        if proxy is not None:
            options["proxy_url"] = proxy.with_user()
        return options


def part_bytes(size: int) -> int:
    """Returns how many bytes each part of an object of so many has."""
    return max(PART_BYTES_MIN, -(-size // PARTS_MAX))


async def _digested(body: RequestBody, digests: PartDigests) -> AsyncIterator[bytes]:
    async for piece in body:
        digests.update(piece)
        yield bytes(piece)


def _is_proved(found: ObjectMeta, digests: PartDigests) -> bool:
    """Returns whether size and ETag are those of the bytes that were digested."""
    etag = (found["e_tag"] or "").strip('"').lower()
    return found["size"] == digests.size and etag in digests.etags()
