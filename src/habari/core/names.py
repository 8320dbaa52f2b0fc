"""From the name a person typed to the slug that Kubernetes and S3 accept; used wherever a name leaves the hub.

The map is one to one: two different names never share a slug, so never a bucket. A name that already is
a slug stays as it is; every other one is cleaned and ends in a hash of the original name.
"""

from __future__ import annotations

import hashlib
import re

from habari.core import errors

MAX_SLUG_LENGTH = 40
"""Longest slug, in characters: arbitrary, so that prefixes fit within S3's 63 and Kubernetes' 63 beside it."""

_HASH_LENGTH = 10
"""Hexadecimal characters of SHA-256 kept: 40 bits, so 10,000 names collide with a probability below 5e-5."""

_PLAIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_RESERVED_PREFIX = "user-"


def slug(name: str) -> str:
    """Return the collision-free form of a name: lower-case ASCII letters, digits and hyphens.

    Args:
        name: The name as typed, 1 to 255 characters.

    Returns:
        `name` itself if it is already plain, else its cleaned form, two hyphens and a hash. A plain
        name never contains two hyphens in a row, so the two kinds never meet.

    Raises:
        InvalidInputError: If the name is empty or longer than 255 characters.
    """
    if not name or len(name) > 255:  # noqa: PLR2004 - JupyterHub's column for a user name
        msg = f"The name {name[:40]!r} has {len(name)} characters; expected 1 to 255."
        raise errors.InvalidInputError(msg)
    if len(name) <= MAX_SLUG_LENGTH and _PLAIN.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    kept = re.sub(r"[^a-z0-9]+", "-", name.lower())[: MAX_SLUG_LENGTH - _HASH_LENGTH - 2].strip("-")
    return f"{kept or 'x'}--{digest}"


def personal_bucket(name: str, *, prefix: str = "") -> str:
    """Return the name of a user's personal bucket, for example `user-ada`.

    Args:
        name: The user's name as the hub knows it.
        prefix: The tenant's bucket prefix, where several tenants share one object store.
    """
    return f"{prefix}{_RESERVED_PREFIX}{slug(name)}"


def identity(name: str, *, prefix: str = "") -> str:
    """Return the name of a user's identity at the object store: that of the personal bucket.

    So no user name, `admin` or `everyone` included, can meet an identity that the store or the platform keeps itself.
    """
    return personal_bucket(name, prefix=prefix)


def everyone_group(*, prefix: str = "") -> str:
    """Return the name of the group at the object store that each identity of the tenant joins once."""
    return f"{prefix}everyone"


def common_bucket(name: str, *, prefix: str = "") -> str:
    """Return the S3 name of a common bucket, which can never be that of a personal one.

    Raises:
        InvalidInputError: If S3 does not take the name, or it starts with `user-`.
    """
    if name.startswith(_RESERVED_PREFIX):
        msg = f"The bucket name {name!r} starts with 'user-', which is kept for personal buckets; choose another name."
        raise errors.InvalidInputError(msg)
    full = f"{prefix}{name}"
    if not _BUCKET.fullmatch(full):
        msg = (
            f"The bucket name {full!r} is not valid in S3: expected 3 to 63 lower-case letters, digits and hyphens, "
            "starting and ending with a letter or digit."
        )
        raise errors.InvalidInputError(msg)
    return full
