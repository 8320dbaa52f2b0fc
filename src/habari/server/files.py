"""`/files/`: downloads of any size, streamed with back-pressure from home and buckets.

Ranges, conditions and HEAD follow RFC 9110. Pages from a bucket run no script: somebody else may have written them.
"""

from __future__ import annotations

import asyncio
import email.utils
import io
import os
import pathlib
import re
import stat
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import aiohttp
from jupyter_server.auth import decorator
from jupyter_server.base import handlers
from tornado import http1connection, iostream, web

from habari.core import errors
from habari.server import disk, failures, models, paths, s3

if TYPE_CHECKING:
    from habari.server import bucket, tree

_SINGLE_RANGE = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))")
_PASSED = ("If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since")
_KEPT = ("Content-Length", "Content-Range", "Content-Encoding", "Last-Modified", "ETag")


class FilesHandler(handlers.JupyterHandler):
    """Serves one file of the tree."""

    auth_resource = "contents"

    @property
    def content_security_policy(self) -> str:
        """Whatever is served is confined to an origin of its own, without scripts."""
        return f"{super().content_security_policy}; sandbox"

    @web.authenticated
    @decorator.authorized
    async def head(self, path: str) -> None:
        """Answer with the headers of a GET."""
        await self._serve(path, with_body=False)

    @web.authenticated
    @decorator.authorized
    async def get(self, path: str) -> None:
        """Answer with a file."""
        await self._serve(path, with_body=True)

    def compute_etag(self) -> str | None:
        """Keep Tornado from hashing what it has in memory."""
        return None

    async def _serve(self, path: str, *, with_body: bool) -> None:
        self.check_xsrf_cookie()
        owner = cast("tree.Tree", self.contents_manager)
        try:
            place = paths.parse(path)
            if isinstance(place, paths.KeyPlace) and not place.is_root and not place.folder:
                files = await owner.bucket_files(place.bucket)
                await self._serve_object(files, place, with_body=with_body)
            elif isinstance(place, paths.HomePlace):
                await self._serve_file(owner, place, path, with_body=with_body)
            else:
                raise _is_folder(path)
        except errors.PublicError as exc:
            if self._headers_written:
                self.log.warning("A download of %s was broken off: %s", path, exc)
                cast("http1connection.HTTP1Connection", self.request.connection).stream.close()
                return
            raise failures.of(exc) from exc
        except iostream.StreamClosedError:
            self.log.debug("The download of %s was broken off by its client", path)

    async def _serve_object(self, files: bucket.BucketFiles, place: paths.KeyPlace, *, with_body: bool) -> None:
        wanted = {name: self.request.headers[name] for name in _PASSED if name in self.request.headers}
        span = self.request.headers.get("Range", "")
        if not with_body:
            meta = await files.client.head(files.name, place.key)
            self._describe(place.name, meta.content_type, from_bucket=True)
            for name in _KEPT:
                if name in meta.headers:
                    self.set_header(name, meta.headers[name])
            self.set_header("Content-Length", str(meta.size))
            return
        if _SINGLE_RANGE.fullmatch(span):
            ranged = wanted | {"Range": span} | self._if_range()
            statuses = (200, 206, 304, 412, 416)
            async with files.client.open(files.name, place.key, ranged, accept=statuses) as response:
                if response.status != HTTPStatus.PRECONDITION_FAILED or "If-Range" not in self.request.headers:
                    await self._relay(files.client, response, place)
                    return
        async with files.client.open(files.name, place.key, wanted, accept=(200, 304, 412)) as response:
            await self._relay(files.client, response, place)

    async def _relay(self, client: s3.Client, response: aiohttp.ClientResponse, place: paths.KeyPlace) -> None:
        self.set_status(response.status)
        for name in _KEPT:
            if name in response.headers:
                self.set_header(name, response.headers[name])
        if response.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            if response.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self.clear_header("Content-Length")
            else:
                self.set_header("Content-Length", "0")
            return
        self._describe(place.name, response.headers.get("Content-Type", ""), from_bucket=True)
        async for chunk in client.chunks(response):
            self.write(chunk)
            await self.flush()

    async def _serve_file(self, owner: tree.Tree, place: paths.HomePlace, path: str, *, with_body: bool) -> None:
        if not owner.allow_hidden and await owner.is_hidden(path):
            raise _missing(path)
        os_path = pathlib.Path(owner.home.os_path(place.path))
        try:
            file = await asyncio.to_thread(_open_regular, os_path)
        except IsADirectoryError as exc:
            raise _is_folder(path) from exc
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise _missing(path) from exc
        except PermissionError as exc:
            msg = f"{path!r} cannot be read: permission denied."
            raise errors.NotPermittedError(msg) from exc
        with file:
            status = os.fstat(file.fileno())
            etag = f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'
            modified = email.utils.formatdate(status.st_mtime, usegmt=True)
            self.set_header("ETag", etag)
            self.set_header("Last-Modified", modified)
            self._describe(paths.name(place.path), "", from_bucket=False)
            if self._is_known(etag, int(status.st_mtime)):
                self.set_status(HTTPStatus.NOT_MODIFIED)
                return
            start, end = self._span(status.st_size, etag, modified)
            self.set_header("Content-Length", str(end - start))
            if not with_body or start == end:
                return
            file.seek(start)
            while start < end:
                chunk = await asyncio.to_thread(file.read, min(disk.CHUNK_BYTES, end - start))
                if not chunk:
                    msg = f"{path!r} became shorter while it was read."
                    raise errors.UnavailableError(msg)
                start += len(chunk)
                self.write(chunk)
                await self.flush()

    def _describe(self, name: str, stored: str, *, from_bucket: bool) -> None:
        kind = models.content_type(name)
        if kind == "application/octet-stream" and stored:
            kind = stored
        self.set_header("Content-Type", "text/plain; charset=UTF-8" if kind == "text/plain" else kind)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Accept-Ranges", "bytes")
        if "v" not in self.request.arguments:
            self.set_header("Cache-Control", "no-cache")
        if self.get_argument("download", None) or name.endswith(".ipynb"):
            self.set_attachment_header(name)
        if not from_bucket:
            policy = f"{super().content_security_policy}; sandbox allow-scripts"
            self.set_header("Content-Security-Policy", policy)

    def _if_range(self) -> dict[str, str]:
        """Return If-Range as a condition that S3 knows; where it fails, the whole object is sent."""
        value = self.request.headers.get("If-Range")
        if value is None:
            return {}
        return {"If-Match" if value.startswith('"') else "If-Unmodified-Since": value}

    def _is_known(self, etag: str, modified_s: int) -> bool:
        tags = self.request.headers.get("If-None-Match")
        if tags is not None:
            return tags.strip() == "*" or etag in re.findall(r'"[^"]*"', tags)
        since = self.request.headers.get("If-Modified-Since")
        if since is None:
            return False
        try:
            return modified_s <= email.utils.parsedate_to_datetime(since).timestamp()
        except ValueError:
            return False

    def _span(self, size: int, etag: str, modified: str) -> tuple[int, int]:
        found = _SINGLE_RANGE.fullmatch(self.request.headers.get("Range", ""))
        if found is None or self.request.headers.get("If-Range", etag) not in {etag, modified}:
            return 0, size
        first, last, suffix = found.groups()
        start = max(0, size - int(suffix)) if suffix else int(first)
        end = size if suffix or not last else min(int(last) + 1, size)
        if start >= size or start >= end:
            self.set_status(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.set_header("Content-Range", f"bytes */{size}")
            return 0, 0
        self.set_status(HTTPStatus.PARTIAL_CONTENT)
        self.set_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        return start, end


def _open_regular(path: pathlib.Path) -> io.FileIO:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError
    return path.open("rb", buffering=0)


def _missing(path: str) -> errors.NotFoundError:
    return errors.NotFoundError(f"No such file: {path!r}.")


def _is_folder(path: str) -> errors.InvalidInputError:
    return errors.InvalidInputError(f"{path!r} is a folder; download the files in it.")
