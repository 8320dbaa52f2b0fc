"""An S3 in memory, strict about keys: every key is what it is, and nothing is a folder.

For the meaning of keys and for failures that a real store does not give on demand; never for authorization.
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import hashlib
import re
import urllib.parse
from collections.abc import Awaitable, Callable
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web

_RESERVED = ("x-amz-meta-", "content-type", "cache-control", "content-disposition", "content-encoding")
_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
MIN_PART = 5 * 1024 * 1024


@dataclasses.dataclass
class Object:
    body: bytes
    etag: str
    headers: dict[str, str]
    modified: datetime.datetime
    tags: str = ""


@dataclasses.dataclass
class Upload:
    bucket: str
    key: str
    headers: dict[str, str]
    parts: dict[int, bytes] = dataclasses.field(default_factory=dict)
    tags: str = ""


Fault = Callable[[web.Request, str, str], Awaitable[web.StreamResponse | None]]


class StrictS3:
    """One store; start it with `start`, and read what was asked in `log`.

    Attributes:
        buckets: Bucket to key to object.
        denied: Buckets that answer AccessDenied.
        log: "METHOD what key" of each request.
        fault: Asked first; may answer in the store's place.
    """

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Object]] = {}
        self.denied: set[str] = set()
        self.uploads: dict[str, Upload] = {}
        self.log: list[str] = []
        self.fault: Fault | None = None
        self.page_size = 1000
        self.url = ""
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner
        await self._runner.cleanup()

    def put(self, bucket: str, key: str, body: bytes = b"", **headers: str) -> Object:
        """Write as somebody else would, not through the tree."""
        made = Object(body, hashlib.md5(body, usedforsecurity=False).hexdigest(), headers, now())
        self.buckets.setdefault(bucket, {})[key] = made
        return made

    def keys(self, bucket: str) -> list[str]:
        return sorted(self.buckets[bucket])

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw, _, query = request.raw_path.partition("?")
        bucket, _, key = raw[1:].partition("/")
        key = urllib.parse.unquote(key)
        asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        verb = self._verb(request, asked, key)
        self.log.append(f"{verb} {key or asked.get('prefix', '')}".strip())
        if self.fault and (answer := await self.fault(request, verb, key)) is not None:
            return answer
        if "AWS4-HMAC-SHA256" not in request.headers.get("Authorization", ""):
            return error(403, "AccessDenied")
        if bucket in self.denied:
            return error(403, "AccessDenied")
        if bucket not in self.buckets:
            return error(404, "NoSuchBucket")
        return await getattr(self, f"_{verb.lower()}")(request, bucket, key, asked)

    @staticmethod
    def _verb(request: web.Request, asked: dict[str, str], key: str) -> str:
        if not key:
            return {"GET": "LIST", "HEAD": "HEADBUCKET"}.get(request.method, "MULTIDELETE")
        if "uploads" in asked:
            return "CREATE"
        if "tagging" in asked:
            return "TAGS"
        copy = "x-amz-copy-source" in request.headers
        if "uploadId" in asked:
            verbs = {"PUT": "PARTCOPY" if copy else "PART", "POST": "COMPLETE", "DELETE": "ABORT"}
            return verbs[request.method]
        return "COPY" if copy else request.method

    async def _headbucket(self, *_: object) -> web.Response:
        return web.Response()

    async def _list(self, _request: web.Request, bucket: str, _key: str, asked: dict[str, str]) -> web.Response:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        after = asked.get("continuation-token", "")
        limit = min(int(asked.get("max-keys", "1000")), self.page_size)
        rows: dict[str, str] = {}
        for key in sorted(self.buckets[bucket], key=lambda each: each.encode()):
            if not key.startswith(prefix):
                continue
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key if end < 0 else key[: end + 1]
            if name in rows or (after and name.encode() <= after.encode()):
                continue
            found = self.buckets[bucket][key]
            quoted = urllib.parse.quote_plus(name, safe="/*-._")
            rows[name] = (
                f"<CommonPrefixes><Prefix>{quoted}</Prefix></CommonPrefixes>"
                if end >= 0
                else f"<Contents><Key>{quoted}</Key><LastModified>{found.modified.isoformat()}</LastModified>"
                f"<ETag>&quot;{found.etag}&quot;</ETag><Size>{len(found.body)}</Size></Contents>"
            )
        shown = list(rows)[:limit]
        more = len(rows) > limit
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        body = "".join(rows[name] for name in shown)
        return xml(
            f"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{body}</ListBucketResult>"
        )

    async def _get(self, request: web.Request, bucket: str, key: str, _asked: dict[str, str]) -> web.Response:
        found = self.buckets[bucket].get(key)
        if found is None:
            return error(404, "NoSuchKey")
        if (refused := self._conditions(request, found)) is not None:
            return refused
        headers = found.headers | {"ETag": f'"{found.etag}"', "Last-Modified": date(found.modified)}
        if "If-None-Match" in request.headers and found.etag in request.headers["If-None-Match"]:
            return web.Response(status=304, headers={"ETag": f'"{found.etag}"'})
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
        if span is None:
            return web.Response(body=found.body, headers=headers)
        size = len(found.body)
        start = int(span[1]) if span[1] else max(0, size - int(span[2]))
        end = min(int(span[2]) + 1, size) if span[1] and span[2] else size
        if start >= size:
            return error(416, "InvalidRange", {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return web.Response(status=206, body=found.body[start:end], headers=headers)

    async def _head(self, request: web.Request, bucket: str, key: str, asked: dict[str, str]) -> web.Response:
        return await self._get(request, bucket, key, asked)

    async def _put(self, request: web.Request, bucket: str, key: str, _asked: dict[str, str]) -> web.Response:
        body = await request.content.read()
        if (refused := self._conditions(request, self.buckets[bucket].get(key))) is not None:
            return refused
        made = self.put(bucket, key, body, **kept(request))
        made.tags = request.headers.get("x-amz-tagging", "")
        return web.Response(headers={"ETag": f'"{made.etag}"'})

    async def _delete(self, request: web.Request, bucket: str, key: str, _asked: dict[str, str]) -> web.Response:
        found = self.buckets[bucket].get(key)
        if found is not None and (refused := self._conditions(request, found)) is not None:
            return refused
        self.buckets[bucket].pop(key, None)
        return web.Response(status=204)

    async def _multidelete(self, request: web.Request, bucket: str, _key: str, _asked: dict[str, str]) -> web.Response:
        document = ElementTree.fromstring(await request.read())  # noqa: S314 - our own client wrote it
        for each in document.iter(f"{_NAMESPACE}Key"):
            self.buckets[bucket].pop(each.text or "", None)
        return xml("<DeleteResult></DeleteResult>")

    def _source(self, request: web.Request) -> Object | web.Response:
        bucket, _, key = urllib.parse.unquote(request.headers["x-amz-copy-source"])[1:].partition("/")
        found = self.buckets.get(bucket, {}).get(key)
        if found is None:
            return error(404, "NoSuchKey")
        wanted = request.headers.get("x-amz-copy-source-if-match")
        if wanted and wanted.strip('"') != found.etag:
            return error(412, "PreconditionFailed")
        return found

    async def _copy(self, request: web.Request, bucket: str, key: str, _asked: dict[str, str]) -> web.Response:
        source = self._source(request)
        if isinstance(source, web.Response):
            return source
        if (refused := self._conditions(request, self.buckets[bucket].get(key))) is not None:
            return refused
        self.buckets[bucket][key] = dataclasses.replace(source, modified=now())
        return xml(f"<CopyObjectResult><ETag>&quot;{source.etag}&quot;</ETag></CopyObjectResult>")

    async def _tags(self, _request: web.Request, bucket: str, key: str, _asked: dict[str, str]) -> web.Response:
        pairs = urllib.parse.parse_qsl(self.buckets[bucket][key].tags)
        tags = "".join(f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>" for name, value in pairs)
        return xml(f"<Tagging><TagSet>{tags}</TagSet></Tagging>")

    async def _create(self, request: web.Request, bucket: str, key: str, _asked: dict[str, str]) -> web.Response:
        upload_id = f"upload-{len(self.uploads) + 1}"
        tags = request.headers.get("x-amz-tagging", "")
        self.uploads[upload_id] = Upload(bucket, key, kept(request), tags=tags)
        return xml(f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>")

    async def _part(self, request: web.Request, _bucket: str, _key: str, asked: dict[str, str]) -> web.Response:
        body = await request.content.read()
        if asked["uploadId"] not in self.uploads:
            return error(404, "NoSuchUpload")
        self.uploads[asked["uploadId"]].parts[int(asked["partNumber"])] = body
        return web.Response(headers={"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'})

    async def _partcopy(self, request: web.Request, _bucket: str, _key: str, asked: dict[str, str]) -> web.Response:
        source = self._source(request)
        if isinstance(source, web.Response):
            return source
        first, last = request.headers["x-amz-copy-source-range"].removeprefix("bytes=").split("-")
        body = source.body[int(first) : int(last) + 1]
        self.uploads[asked["uploadId"]].parts[int(asked["partNumber"])] = body
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        return xml(f"<CopyPartResult><ETag>&quot;{etag}&quot;</ETag></CopyPartResult>")

    async def _complete(self, request: web.Request, bucket: str, key: str, asked: dict[str, str]) -> web.Response:
        if asked["uploadId"] not in self.uploads:
            return error(404, "NoSuchUpload")
        upload = self.uploads[asked["uploadId"]]
        if (refused := self._conditions(request, self.buckets[bucket].get(key))) is not None:
            return refused
        parts = [upload.parts[number] for number in sorted(upload.parts)]
        if any(len(part) < MIN_PART for part in parts[:-1]):
            return error(400, "EntityTooSmall")
        del self.uploads[asked["uploadId"]]
        digests = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)
        made = self.put(bucket, key, b"".join(parts), **upload.headers)
        made.tags = upload.tags
        made.etag = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
        etag = f"<ETag>&quot;{made.etag}&quot;</ETag>"
        return xml(f"<CompleteMultipartUploadResult>{etag}</CompleteMultipartUploadResult>")

    async def _abort(self, _request: web.Request, _bucket: str, _key: str, asked: dict[str, str]) -> web.Response:
        self.uploads.pop(asked["uploadId"], None)
        return web.Response(status=204)

    @staticmethod
    def _conditions(request: web.Request, found: Object | None) -> web.Response | None:
        match, absent = request.headers.get("If-Match"), request.headers.get("If-None-Match")
        if match is not None and found is None:
            return error(404, "NoSuchKey")
        if (match is not None and found and match.strip('"') != found.etag) or (absent == "*" and found is not None):
            return error(412, "PreconditionFailed")
        return None


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def date(moment: datetime.datetime) -> str:
    return email.utils.format_datetime(moment, usegmt=True)


def kept(request: web.Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name.lower().startswith(_RESERVED)}


def xml(body: str) -> web.Response:
    return web.Response(body=f'<?xml version="1.0" encoding="UTF-8"?>{body}'.encode(), content_type="application/xml")


def error(status: int, code: str, headers: dict[str, str] | None = None) -> web.Response:
    body = f"<Error><Code>{code}</Code><Message>made up</Message></Error>".encode()
    return web.Response(status=status, body=body, content_type="application/xml", headers=headers)
