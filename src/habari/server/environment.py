"""The S3 variables of a user's server, which its kernels and terminals inherit.

`habari.server.extension` sets them at start from what the storage service answers, `habari lab` completes
those that a person has set. They are the one place where a running server keeps its keys: the tree reads
them through `store`, so that changing them changes every later request, kernel and terminal.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, MutableMapping

from habari.core import errors, model
from habari.server import buckets

_KEPT = frozenset(
    {
        "AWS_CA_BUNDLE",
        "AWS_MAX_ATTEMPTS",
        "AWS_RETRY_MODE",
        "AWS_SIGV4A_SIGNING_REGION_SET",
        "AWS_USE_DUALSTACK_ENDPOINT",
        "AWS_USE_FIPS_ENDPOINT",
    }
)
"""Variables of AWS that name no credential, no account and no endpoint: a server may inherit these alone."""


def store(variables: Mapping[str, str]) -> buckets.Store:
    """Return the object store that the S3 variables of an environment stand for.

    Without an endpoint, it is that of AWS in the region `AWS_REGION` or `AWS_DEFAULT_REGION`, else us-east-1.

    Raises:
        ConfigError: If a key is missing or empty, or the endpoint is not an http or https URL.
    """
    region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or "us-east-1"
    missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not variables.get(name)]
    if missing:
        msg = (
            f"The environment has no {' and no '.join(missing)}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(and S3_ENDPOINT_URL, if the object store is not AWS), then try again."
        )
        raise errors.ConfigError(msg)
    names = ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    name = next((each for each in names if variables.get(each)), "")
    endpoint_url = variables[name] if name else f"https://s3.{region}.amazonaws.com"
    if not _is_http_url(endpoint_url):
        msg = f"{name} is {endpoint_url!r}; expected a URL such as https://s3.example.org."
        raise errors.ConfigError(msg)
    keys = model.AccessKey(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"])
    return buckets.Store(endpoint_url.rstrip("/"), region, keys, variables.get("AWS_SESSION_TOKEN") or None)


def from_me(me: model.Me) -> buckets.Store:
    """Return the object store in the storage service's answer.

    Raises:
        HabariError: If the answer lacks a key, the endpoint, the region or the bucket.
    """
    found = {
        "access key id": me.keys.access_key_id,
        "secret access key": me.keys.secret_access_key,
        "endpoint": me.endpoint_url,
        "region": me.region,
        "personal bucket": me.bucket,
    }
    if empty := [name for name, value in found.items() if not value.strip()]:
        lacks = " and no ".join(empty)
        msg = f"The storage service's answer for the user {me.user!r} has no {lacks}; tell an administrator."
        raise errors.HabariError(msg)
    if not _is_http_url(me.endpoint_url):
        msg = f"The storage service names the endpoint {me.endpoint_url!r}; expected an http or https URL."
        raise errors.HabariError(msg)
    keys = model.AccessKey(me.keys.access_key_id, me.keys.secret_access_key)
    return buckets.Store(me.endpoint_url.rstrip("/"), me.region, keys)


def variables(found: buckets.Store) -> dict[str, str]:
    """Return the variables that make S3 clients use this store with no other configuration.

    boto3, s3fs, pyarrow and polars read `AWS_*`. DuckDB's httpfs reads the keys there too, its endpoint in
    `DUCKDB_S3_*`. Clients built on Rust's object_store talk plain HTTP only with `AWS_ALLOW_HTTP`.
    `AWS_ENDPOINT_URL` is not set, because it redirects every service of AWS.
    """
    url = urllib.parse.urlsplit(found.endpoint_url)
    result = {
        "S3_ENDPOINT_URL": found.endpoint_url,
        "AWS_ENDPOINT_URL_S3": found.endpoint_url,
        "AWS_ACCESS_KEY_ID": found.keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": found.keys.secret_access_key,
        "AWS_DEFAULT_REGION": found.region,
        "AWS_REGION": found.region,
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "DUCKDB_S3_ENDPOINT": f"{url.netloc}{url.path}",
        "DUCKDB_S3_USE_SSL": "true" if url.scheme == "https" else "false",
    }
    if url.scheme == "http":
        result["AWS_ALLOW_HTTP"] = "true"
    return result


def replace(target: MutableMapping[str, str], found: buckets.Store, *, bucket: str) -> None:
    """Make `target` name this store and hold no other credential.

    Every other variable that could lead a client to a broader credential, another account or another
    endpoint is taken away, and the metadata services of cloud machines are closed.
    """
    new = variables(found) | {"AWS_EC2_METADATA_DISABLED": "true", "HABARI_BUCKET": bucket}
    for name in [each for each in target if _leads_elsewhere(each)]:
        del target[name]
    target.update(new)


def complete(target: MutableMapping[str, str], found: buckets.Store) -> None:
    """Add to `target` what S3 clients miss in a person's own variables; what is set stays."""
    for name, value in variables(found).items():
        if not target.get(name):
            target[name] = value


def _leads_elsewhere(name: str) -> bool:
    upper = name.upper()
    return upper.startswith(("AWS_", "FSSPEC_S3_", "DUCKDB_S3_")) and upper not in _KEPT


def _is_http_url(text: str) -> bool:
    try:
        url = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    return url.scheme in {"http", "https"} and bool(url.hostname)
