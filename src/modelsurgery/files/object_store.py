"""Objects below a URL `s3://BUCKET/PREFIX`: listing, ranged reads, and objects made of parts.

Any server that speaks S3; the address and the credentials are boto3's own (`AWS_ENDPOINT_URL`,
`AWS_PROFILE`, …). An object appears whole or not at all.
"""

import base64
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modelsurgery.errors import ModelNotFoundError, OutputExistsError, RecipeError, StorageError
from modelsurgery.files.object_errors import code_of, imported, is_broken_off, object_errors
from modelsurgery.files.parallel import CONNECTIONS, in_parallel

SCHEME = "s3://"
CONNECT_SECONDS = 20
# Completing an upload of thousands of parts takes minutes; asked again it would be an error.
ANSWER_SECONDS = 600
MOST_READS = 4  # of one range, when answers break off
MOST_COPIED_BYTES = 5 << 30  # of one CopyObject or UploadPartCopy
COPIED_PART_BYTES = 1 << 30
CLAIMED = ("PreconditionFailed", "ConditionalRequestConflict")


def is_url(name: Path | str) -> bool:
    """Whether a name means something in an object store; as a `Path` too, which drops a slash."""
    return str(name).startswith("s3:/")


def refuse_url(name: Path | str, doing: str) -> None:
    """Raise RecipeError when a name means something in an object store."""
    if is_url(name):
        raise RecipeError(f"{Folder(name).url}: {doing}")


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing describes it."""

    size: int  # in bytes
    etag: str  # changes when the content does
    version: str | None = None  # of an object just made in a bucket that keeps versions


@dataclass
class Traffic:
    """Bytes of objects that this process read and wrote, and its requests.

    Headers, and what boto3 repeats, are not counted.
    """

    received: int = 0
    sent: int = 0
    requests: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def count(self, *, received: int = 0, sent: int = 0) -> None:
        """Count a request."""
        with self._lock:
            self.received += received
            self.sent += sent
            self.requests += 1


@dataclass(frozen=True)
class Range:
    """Bytes `start:stop` of an object, for the server to copy while the etag is still this one."""

    folder: "Folder"
    name: str
    start: int
    stop: int
    etag: str

    def __len__(self) -> int:
        """Number of bytes."""
        return self.stop - self.start


# A part of an object: for the server to copy, content to send, or what gives it when it is needed.
Part = Range | bytes | Callable[[], bytes | Range]


class Folder:
    """The objects below a URL. Names are relative to it."""

    def __init__(self, url: Path | str) -> None:
        """Take a URL apart; nothing is asked of the server yet.

        Raises:
            RecipeError: it names no bucket or no folder in it.
        """
        self.bucket, _, prefix = str(url).removeprefix("s3:").strip("/").partition("/")
        if not self.bucket or not prefix:
            raise RecipeError(f"{url}: expected {SCHEME}BUCKET/FOLDER")
        self._prefix = f"{prefix}/"
        self.url = f"{SCHEME}{self.bucket}/{prefix}"
        self.traffic = Traffic()

    @cached_property
    def _client(self) -> Any:
        boto3, config = imported("boto3", self.url), imported("botocore.config", self.url)
        with object_errors(self.url):
            # Checksums of boto3's own are not known to every server; ours are of MD5.
            settings = config.Config(
                max_pool_connections=CONNECTIONS,
                connect_timeout=CONNECT_SECONDS,
                read_timeout=ANSWER_SECONDS,
                tcp_keepalive=True,
                retries={"mode": "standard", "max_attempts": 5},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            return boto3.session.Session().client("s3", config=settings)

    def is_inside(self, other: "Folder") -> bool:
        """Whether all objects below this URL are below another."""
        return self.url.startswith(other.url + "/")

    def objects(self) -> dict[str, StoredObject]:
        """All objects below the URL, by name.

        Raises:
            ModelNotFoundError: there is no such bucket.
            StorageError: the server cannot be reached or refuses.
        """
        found = {}
        for page in self._pages("list_objects_v2"):
            for one in page.get("Contents", ()):
                name = one["Key"].removeprefix(self._prefix)
                if name and not name.endswith("/"):
                    found[name] = StoredObject(one["Size"], one["ETag"])
        return found

    def read(self, name: str, start: int, stop: int, etag: str) -> bytes:
        """Bytes `start:stop` of an object, fewer where it ends before.

        Raises:
            StorageError: as all that asks the server; the object has another etag.
        """
        if start == stop:
            return b""
        for _ in range(MOST_READS - 1):
            try:
                return self._read_once(name, start, stop, etag)
            except StorageError as error:
                if not is_broken_off(error):
                    raise
        return self._read_once(name, start, stop, etag)

    def _read_once(self, name: str, start: int, stop: int, etag: str) -> bytes:
        with object_errors(self.url):
            answer = self._client.get_object(
                **self._key(name), Range=f"bytes={start}-{stop - 1}", IfMatch=etag
            )
            if answer["ContentLength"] > stop - start:
                answer["Body"].close()
                raise StorageError(
                    f"{self.url}: the server sends whole objects where a range was asked for; "
                    "expected S3 with ranged reads"
                )
            content: bytes = answer["Body"].read()
        self.traffic.count(received=len(content))
        return content

    def metadata(self, name: str) -> dict[str, str]:
        """What was recorded with an object when it was made."""
        return dict(self._ask("head_object", **self._key(name))["Metadata"])

    def put(self, name: str, content: bytes, *, new: bool = False) -> None:
        """Write a small object.

        Raises:
            OutputExistsError: with `new`, there is one of that name.
        """
        condition = {"IfNoneMatch": "*"} if new else {}
        try:
            self._ask("put_object", content, **self._key(name), **condition)
        except StorageError as error:
            if new and code_of(error.__cause__) in CLAIMED:
                raise OutputExistsError(
                    f"{self.url} is being written to by another surgery; choose another --out"
                ) from error
            raise

    def copy(
        self,
        name: str,
        source: "Folder",
        stored: StoredObject,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Have the server copy an object of that name, of any size."""
        if stored.size > MOST_COPIED_BYTES:
            edges = [*range(0, stored.size, COPIED_PART_BYTES), stored.size]
            parts = [Range(source, name, *edge, stored.etag) for edge in itertools.pairwise(edges)]
            self.compose(name, parts, metadata)
            return
        self._ask(
            "copy_object",
            **self._key(name),
            CopySource=source._key(name),
            CopySourceIfMatch=stored.etag,
            **({"Metadata": metadata, "MetadataDirective": "REPLACE"} if metadata else {}),
        )

    def compose(
        self,
        name: str,
        parts: Sequence[Part],
        metadata: Mapping[str, str] | None = None,
        *,
        connections: int = CONNECTIONS,
        done: Callable[[], None] = lambda: None,
        ended: Callable[[], None] = lambda: None,
    ) -> StoredObject:
        """Make an object of parts, in their order; when a part fails, nothing is left of it.

        Args:
            name: of the object; what had that name is replaced.
            parts: at least 5 MiB each, but for the last.
            metadata: recorded with it.
            connections: number of parts under way at a time.
            done: called when a part has arrived.
            ended: called when a part failed, before those under way are waited for.
        """
        key = self._key(name)
        upload = self._ask("create_multipart_upload", **key, Metadata=dict(metadata or {}))
        key["UploadId"] = upload["UploadId"]
        sizes: list[int] = []

        def bring(numbered: tuple[int, Part]) -> dict[str, Any]:
            number, given = numbered
            part = given() if callable(given) else given
            etag = self._bring(key, number, part)
            sizes.append(len(part))
            done()
            return {"PartNumber": number, "ETag": etag}

        try:
            brought = in_parallel(bring, list(enumerate(parts, 1)), connections, ended)
            answer = self._ask(
                "complete_multipart_upload", **key, MultipartUpload={"Parts": brought}
            )
        except BaseException:
            with suppress(StorageError, ModelNotFoundError):
                self._ask("abort_multipart_upload", **key)
            raise
        return StoredObject(sum(sizes), answer["ETag"], _version(answer))

    def _bring(self, key: Mapping[str, Any], number: int, part: bytes | Range) -> str:
        """Send a part of an upload, or have it copied; its etag."""
        if isinstance(part, bytes):
            answer = self._ask("upload_part", part, **key, PartNumber=number)
        else:
            answer = self._ask(
                "upload_part_copy",
                **key,
                PartNumber=number,
                CopySource=part.folder._key(part.name),
                CopySourceRange=f"bytes={part.start}-{part.stop - 1}",
                CopySourceIfMatch=part.etag,
            )["CopyPartResult"]
        return str(answer["ETag"])

    def versions(self, prefix: str) -> list[tuple[str, str | None]]:
        """Names and versions of all objects whose names begin so, also of those deleted by name.

        Where the server keeps or lists no versions, each object once, with None.
        """
        try:
            return [
                (one["Key"].removeprefix(self._prefix), _version(one))
                for page in self._pages("list_object_versions", prefix)
                for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
            ]
        except StorageError as error:
            if code_of(error.__cause__) not in ("NotImplemented", "AccessDenied"):
                raise
            return [(name, None) for name in self.objects() if name.startswith(prefix)]

    def delete(self, objects: Iterable[tuple[str, str | None]]) -> None:
        """Delete objects by name and version, if one is known; a missing one is no error."""
        by_name: dict[str, list[str | None]] = {}
        for name, version in dict.fromkeys(objects):
            by_name.setdefault(name, []).append(version)

        # One request each: that for many needs a checksum which servers do not agree about.
        # Versions of an object one after the other, because servers do not expect otherwise.
        def remove(name: str) -> None:
            for version in by_name[name]:
                which = {"VersionId": version} if version else {}
                self._ask("delete_object", **self._key(name), **which)

        in_parallel(remove, list(by_name))

    def abort_uploads(self) -> None:
        """Abort all uploads below the URL that were begun and not completed."""
        for page in self._pages("list_multipart_uploads"):
            for one in page.get("Uploads", ()):
                key = {"Bucket": self.bucket, "Key": one["Key"], "UploadId": one["UploadId"]}
                self._ask("abort_multipart_upload", **key)

    def _key(self, name: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": self._prefix + name}

    def _ask(self, request: str, body: bytes | None = None, /, **fields: Any) -> Any:
        """The server's answer to a request that boto3 knows by that name, perhaps with content."""
        with object_errors(self.url):
            if body is not None:
                fields |= {"Body": body, "ContentMD5": _md5(body)}
            answer = getattr(self._client, request)(**fields)
        self.traffic.count(sent=len(body or b""))
        return answer

    def _pages(self, listing: str, prefix: str = "") -> Iterator[dict[str, Any]]:
        """The pages of a listing of what is below the URL, or of what begins so there."""
        with object_errors(self.url):
            pages = self._client.get_paginator(listing)
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix + prefix):
                self.traffic.count()
                yield page


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _version(answer: Mapping[str, Any]) -> str | None:
    """Of an object; "null" is that of a bucket which keeps none."""
    version: str = answer.get("VersionId") or "null"
    return None if version == "null" else version
