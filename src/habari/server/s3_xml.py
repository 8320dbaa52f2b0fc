"""Reads the XML that S3 answers with, by expat's callbacks: a listing of a thousand entries costs some milliseconds.

Shapes: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Iterable
from xml.parsers import expat
from xml.sax import saxutils

from habari.core import errors

_TOKEN = re.compile(rb"<NextContinuationToken>([^<]+)</NextContinuationToken>")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_TRUNCATED = re.compile(rb"<IsTruncated>\s*true\s*</IsTruncated>")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """An object as a listing shows it.

    Attributes:
        key: Its key.
        size: Bytes.
        etag: Its ETag, without quotes.
        modified: When it was written, ISO 8601 as the store gave it.
    """

    key: str
    size: int
    etag: str
    modified: str


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing: objects, and the prefixes that stand for folders."""

    objects: list[Entry]
    prefixes: list[str]


def next_token(body: bytes) -> str | None:
    """Return the token of the page after this one, without parsing the page.

    Raises:
        UnavailableError: If the page says that more follows and gives no token.
    """
    if not _TRUNCATED.search(body):
        return None
    found = _TOKEN.search(body)
    if found is None:
        msg = "The object store cut a listing short and did not say how to go on; try again."
        raise errors.UnavailableError(msg)
    return saxutils.unescape(found.group(1).decode(), {"&quot;": '"', "&apos;": "'"})


def parse_page(body: bytes, prefix: str = "") -> Page:
    """Return a page of ListObjectsV2.

    Args:
        body: The page.
        prefix: What was asked for. SeaweedFS lists `a/b` for the prefix `/a/`; what does not start with
            the prefix is left out, so that nothing deletes it.

    Raises:
        UnavailableError: If the body is not such a page, whole.
    """
    reader = _Reader({"Contents": ("Key", "Size", "ETag", "LastModified"), "CommonPrefixes": ("Prefix",)})
    root = reader.read(body)
    if root != "ListBucketResult":
        msg = f"The object store answered a listing with {root or 'nothing'}; expected ListBucketResult."
        raise errors.UnavailableError(msg)
    decode = urllib.parse.unquote_plus if reader.single.get("EncodingType") == "url" else _same
    objects = [
        Entry(decode(each["Key"]), int(each.get("Size", "0")), unquoted(each.get("ETag", "")), each["LastModified"])
        for each in reader.records["Contents"]
    ]
    prefixes = [decode(each["Prefix"]) for each in reader.records["CommonPrefixes"]]
    return Page(
        [each for each in objects if each.key.startswith(prefix)],
        [each for each in prefixes if each.startswith(prefix)],
    )


def parse_single(body: bytes) -> tuple[str, dict[str, str]]:
    """Return the name of the root element and the texts directly below it; empty for an empty body."""
    if not body.strip():
        return "", {}
    reader = _Reader({})
    return reader.read(body), reader.single


def parse_delete_errors(body: bytes) -> list[tuple[str, str]]:
    """Return key and code of each object that DeleteObjects did not delete."""
    reader = _Reader({"Error": ("Key", "Code")})
    reader.read(body)
    return [(each.get("Key", ""), each.get("Code", "InternalError")) for each in reader.records["Error"]]


def parse_tags(body: bytes) -> list[tuple[str, str]]:
    """Return key and value of each tag of a Tagging document."""
    reader = _Reader({"Tag": ("Key", "Value")}, depth=3)
    reader.read(body)
    return [(each.get("Key", ""), each.get("Value", "")) for each in reader.records["Tag"]]


def unquoted(etag: str) -> str:
    """Return an ETag without the quotes around it."""
    return etag.strip().strip('"')


def delete_document(keys: Iterable[str]) -> bytes:
    """Return the body of a DeleteObjects request that answers only with failures."""
    objects = "".join(f"<Object><Key>{_escape(key)}</Key></Object>" for key in keys)
    return f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{objects}<Quiet>true</Quiet></Delete>'.encode()


def complete_document(etags: Iterable[str]) -> bytes:
    """Return the body of CompleteMultipartUpload for parts 1, 2, 3 and so on."""
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{_escape(etag)}&quot;</ETag></Part>"
        for number, etag in enumerate(etags, start=1)
    )
    xmlns = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<CompleteMultipartUpload xmlns="{xmlns}">{parts}</CompleteMultipartUpload>'.encode()


def is_xml_text(text: str) -> bool:
    """Return whether XML 1.0 can carry a text: https://www.w3.org/TR/xml/#charsets."""
    return _NOT_XML.search(text) is None


def _escape(text: str) -> str:
    return saxutils.escape(text, {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"})


def _same(text: str) -> str:
    return text


class _Reader:
    """Collects the texts below the root, and below the repeated elements that `wanted` names."""

    def __init__(self, wanted: dict[str, tuple[str, ...]], *, depth: int = 2) -> None:
        """Take what to collect, and how deep the records lie."""
        self._records_at = depth
        self._wanted = {name: frozenset(fields) for name, fields in wanted.items()}
        self.records: dict[str, list[dict[str, str]]] = {name: [] for name in wanted}
        self.single: dict[str, str] = {}
        self._root = ""
        self._depth = 0
        self._record: dict[str, str] | None = None
        self._fields: frozenset[str] = frozenset()
        self._text: list[str] | None = None

    def read(self, body: bytes) -> str:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        try:
            parser.Parse(body, True)  # noqa: FBT003 - expat takes it by position only
        except expat.ExpatError as exc:
            msg = f"The object store answered with XML that cannot be read ({exc}); try again."
            raise errors.UnavailableError(msg) from exc
        return self._root

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            self._root = name
        elif self._depth == self._records_at:
            if name in self._wanted:
                self._record = {}
                self._fields = self._wanted[name]
                self.records[name].append(self._record)
            else:
                self._text = []
        elif self._depth == self._records_at + 1 and name in self._fields:
            self._text = []

    def _end(self, name: str) -> None:
        if self._text is not None:
            into = self._record if self._record is not None else self.single
            into[name] = "".join(self._text)
            self._text = None
        if self._depth == self._records_at:
            self._record = None
            self._fields = frozenset()
        self._depth -= 1

    def _characters(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)
