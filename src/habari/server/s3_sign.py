"""Addresses and signs S3 requests: botocore computes the signature, and a key goes into the URL as it is.

Path-style addressing, Signature Version 4: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import yarl
from botocore import auth, awsrequest, credentials

if TYPE_CHECKING:
    from habari.server import buckets

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"


class _Auth(auth.S3SigV4Auth):  # type: ignore[misc] # botocore has no types
    """Signs with a payload hash that the caller computed, off the event loop where it is large."""

    def __init__(self, keys: credentials.Credentials, region: str, payload_hash: str) -> None:
        super().__init__(keys, "s3", region)
        self._payload_hash = payload_hash

    def payload(self, _request: awsrequest.AWSRequest) -> str:
        return self._payload_hash


def quoted_key(key: str) -> str:
    """Return a key as it stands in a URL and in `x-amz-copy-source`: nothing in it is normalised."""
    return urllib.parse.quote(key, safe="/-._~", errors="surrogateescape")


def quoted(text: str) -> str:
    """Return a name or value of a query."""
    return urllib.parse.quote(text, safe="-._~", errors="surrogateescape")


def url(store: buckets.Store, bucket: str, key: str = "", query: Iterable[tuple[str, str]] = ()) -> str:
    """Return the address of a bucket or object; the query is sorted, as the signature wants it."""
    pairs = sorted((quoted(name), quoted(value)) for name, value in query)
    path = f"{store.endpoint_url.rstrip('/')}/{bucket}"
    if key:
        path += f"/{quoted_key(key)}"
    return f"{path}?{'&'.join(f'{name}={value}' for name, value in pairs)}" if pairs else path


def payload_hash(store: buckets.Store, body: bytes | memoryview) -> str:
    """Return what signs the body: TLS guards it already where there is TLS, else its SHA-256 does."""
    if not body:
        return EMPTY_SHA256
    return UNSIGNED if store.endpoint_url.startswith("https:") else hashlib.sha256(body).hexdigest()


def sign(
    store: buckets.Store, method: str, address: str, headers: Mapping[str, str], hashed: str
) -> tuple[yarl.URL, dict[str, str]]:
    """Return the URL, which aiohttp will not normalise, and the headers of a signed request.

    Args:
        store: Whose keys and region sign.
        method: HTTP method.
        address: What `url` returned.
        headers: All of them are signed.
        hashed: What `payload_hash` returned.
    """
    request = awsrequest.AWSRequest(method=method, url=address, headers=dict(headers))
    keys = credentials.Credentials(store.keys.access_key_id, store.keys.secret_access_key, store.session_token)
    _Auth(keys, store.region, hashed).add_auth(request)
    return yarl.URL(address, encoded=True), dict(request.headers.items())
