"""The things the platform knows: buckets, grants, identities, and the documents its parts exchange.

The storage service keeps the dataclasses in its database. The pydantic models are its REST API: the
hub sends `EnsureRequest` and reads `Step` lines, user servers read `Me`.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from typing import Literal

import pydantic

from habari.core import errors


class Access(enum.StrEnum):
    """What a grant allows. `write` includes `read`."""

    READ = "read"
    WRITE = "write"


class GranteeKind(enum.StrEnum):
    """Whom a grant names."""

    USER = "user"
    GROUP = "group"
    EVERYONE = "everyone"


class BucketKind(enum.StrEnum):
    """Why a bucket exists: one per user, made by a user to share, or declared by the tenant."""

    PERSONAL = "personal"
    SHARED = "shared"
    COMMON = "common"


@dataclasses.dataclass(frozen=True, order=True)
class Grantee:
    """A user or group by its hub name, or everyone (with an empty name): this tenant's identities, nobody else."""

    kind: GranteeKind
    name: str = ""


ADMINS = Grantee(GranteeKind.GROUP, "admins")
"""The platform's administrators, as a group that the storage service keeps itself."""

EVERYONE = Grantee(GranteeKind.EVERYONE)


@dataclasses.dataclass(frozen=True)
class Grant:
    """Access to a bucket, or to the keys that start with `prefix`.

    `expires_at` is an aware time; from that moment on the grant is void.

    Raises:
        InvalidInputError: If the prefix has a character that means more than itself in a policy, or the time is not
            aware.
    """

    bucket: str
    grantee: Grantee
    access: Access
    prefix: str = ""
    expires_at: datetime.datetime | None = None
    given_by: str = ""

    def __post_init__(self) -> None:
        """Refuse what a policy would understand in another way than it is meant."""
        # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
        if found := [each for each in ("*", "?", "${") if each in self.prefix]:
            msg = (
                f"The prefix {self.prefix!r} of a grant on bucket {self.bucket!r} has {found[0]!r}, which object "
                "stores take for a pattern; expected the literal beginning of keys. Share a prefix without it."
            )
            raise errors.InvalidInputError(msg)
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            msg = (
                f"The end {self.expires_at.isoformat()} of a grant on bucket {self.bucket!r} has no time zone; "
                "expected one, for example +00:00."
            )
            raise errors.InvalidInputError(msg)


@dataclasses.dataclass(frozen=True)
class AccessKey:
    """A key pair of an identity. The secret is left out of `repr`, so that no log line holds it."""

    access_key_id: str
    secret_access_key: str = dataclasses.field(repr=False)


class ApiModel(pydantic.BaseModel):
    """Base of the REST API's documents: unknown fields are refused by name."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Person(ApiModel):
    """Who signed in: `issuer` and `subject` together bind an identity, the user name does not."""

    issuer: str = pydantic.Field(min_length=1)
    subject: str = pydantic.Field(min_length=1)


class EnsureRequest(Person):
    """What the hub tells the storage service about the user it is about to launch."""

    admin: bool = False
    groups: list[str] = []


class Step(ApiModel):
    """One line (JSON, newline-terminated) of the answer to an ensure request, in the order things happen.

    The last line has step `ready` and state `done`, or the state `failed` with a message for the user.
    """

    step: str
    state: Literal["started", "done", "failed"]
    message: str = ""


class BucketView(ApiModel):
    """A bucket as one user sees it. `prefixes` limits the access where it is not empty."""

    name: str
    kind: BucketKind
    access: Access
    description: str = ""
    prefixes: list[str] = []


class Keys(ApiModel):
    """A user's key pair at the object store."""

    access_key_id: str
    secret_access_key: str = pydantic.Field(repr=False)


class Me(ApiModel):
    """What a user server needs: where the object store is, the user's keys, and the user's buckets."""

    user: str
    bucket: str
    endpoint_url: str
    region: str
    keys: Keys
    buckets: list[BucketView]


class ErrorBody(ApiModel):
    """The one shape of every error of the REST API: `{"error": {"code": …, "message": …}}`."""

    class Detail(ApiModel):
        """A code for programs and a sentence for people."""

        code: str
        message: str

    error: Detail
