"""`habari.yaml`: the one declaration of a tenant, typed, with unknown keys refused at every level.

Read by every part through `parse`; its JSON Schema is `Tenant.model_json_schema()`. Each field's
description is the documentation that users see.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field

from habari.core import errors, model, names

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""The hosts to listen on that no other machine reaches."""


class Section(pydantic.BaseModel):
    """Base of every part of the declaration."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Tls(Section):
    """A certificate of your own, for listening on anything but loopback."""

    certificate: str
    """Path of the certificate chain, PEM."""
    key: str
    """Path of its private key, PEM."""


class Listen(Section):
    """Where the platform listens, and which address people type."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs `tls` or the option `--behind-proxy`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 picks a free one."""
    public_url: str | None = None
    """The address people type, for example `https://habari.example.org`; by default `http://localhost:PORT`."""
    subdomains: bool = True
    """Serve each user's server on a subdomain of its own, so that its pages cannot act with another's session."""
    tls: Tls | None = None
    """Certificate and key; without them the platform speaks HTTP."""

    @property
    def url(self) -> str:
        """The address that people type, without a slash at its end."""
        if self.public_url:
            return self.public_url.rstrip("/")
        scheme, usual = ("https", 443) if self.tls else ("http", 80)
        host = "localhost" if self.host in LOOPBACK else self.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}" + ("" if self.port == usual else f":{self.port}")


class GitHub(Section):
    """A GitHub OAuth app: https://docs.github.com/en/apps/oauth-apps."""

    client_id: str
    """The app's client id."""
    client_secret_file: str
    """Path of a file that holds the app's client secret, readable only by the platform."""
    allowed_organizations: list[str] = []
    """Members of these organizations are let in; `ORG:TEAM` names a team."""
    url: str = "https://github.com"
    """GitHub's address, or that of a GitHub Enterprise server."""
    api_url: str = "https://api.github.com"
    """Address of its API; `https://HOST/api/v3` on a GitHub Enterprise server."""


class SignIn(Section):
    """Who may sign in. Nobody is let in by default."""

    method: Literal["local", "github"] = "local"
    """`local`: accounts made by `habari user add`. `github`: GitHub's OAuth."""
    admin_users: list[str] = []
    """Names of administrators. With local accounts, the first one made at first start is an administrator too."""
    allowed_users: list[str] = []
    """Names of those let in with GitHub, besides administrators and members of allowed organizations."""
    github: GitHub | None = None
    """Needed for `github`."""

    @pydantic.model_validator(mode="after")
    def _complete(self) -> SignIn:
        if self.method == "github" and self.github is None:
            msg = "the method 'github' needs the section 'github' with client_id and client_secret_file"
            raise ValueError(msg)
        return self


class Servers(Section):
    """The users' Jupyter servers."""

    start_timeout_s: Annotated[int, Field(ge=5)] = 120
    """Seconds that a server may take to answer before its launch fails."""
    idle_timeout_s: Annotated[int, Field(ge=0)] = 3600
    """Seconds without activity after which a server is stopped; 0 never stops one."""


class CommonBucket(Section):
    """A bucket that the tenant declares, and that everyone sees."""

    name: str
    """Name of the bucket, without the tenant's prefix."""
    description: str = ""
    """One line for people."""
    everyone: Literal["none", "read", "write"] = "read"
    """What every user may do."""
    admins: Literal["none", "read", "write"] = "write"
    """What administrators may do."""

    @pydantic.field_validator("name")
    @classmethod
    def _valid(cls, value: str) -> str:
        try:
            names.common_bucket(value)
        except errors.InvalidInputError as error:
            raise ValueError(str(error)) from error
        return value

    def grants(self, bucket: str) -> list[model.Grant]:
        """Return the grants that this declaration stands for, on the S3 bucket of that name."""
        levels = ((model.EVERYONE, self.everyone), (model.ADMINS, self.admins))
        return [
            model.Grant(bucket, grantee, model.Access(level), given_by="habari.yaml")
            for grantee, level in levels
            if level != "none"
        ]


class Buckets(Section):
    """The buckets of the tenant."""

    prefix: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9-]{0,10}-)?$")] = ""
    """Put before every bucket, identity and group name where tenants share a store; ends in a hyphen."""
    common: list[CommonBucket] = [
        CommonBucket(name="lake", description="Data for everyone, kept by the administrators"),
        CommonBucket(name="notebooks", description="Notebooks that everyone may change", everyone="write"),
    ]
    """Buckets that everyone sees."""

    @pydantic.field_validator("common")
    @classmethod
    def _distinct(cls, value: list[CommonBucket]) -> list[CommonBucket]:
        taken = [bucket.name for bucket in value]
        if twice := sorted({name for name in taken if taken.count(name) > 1}):
            msg = f"the bucket {twice[0]!r} is declared twice"
            raise ValueError(msg)
        return value


class Store(Section):
    """The object store."""

    kind: Literal["embedded"] = "embedded"
    """`embedded`: a SeaweedFS that Habari runs itself, meant for up to about 200 users."""
    region: str = "us-east-1"
    """Region name that clients sign with."""
    reserve_gib: Annotated[int, Field(ge=0)] = 2
    """GiB of free disk below which the embedded store takes no more data."""


class Tenant(Section):
    """One platform: one hub, one `habari.yaml`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")] = "habari"
    """Name of the tenant: lower-case letters, digits and hyphens."""
    title: str = "Habari"
    """What people read on the sign-in page."""
    listen: Listen = Listen()
    sign_in: SignIn = SignIn()
    servers: Servers = Servers()
    buckets: Buckets = Buckets()
    store: Store = Store()


def parse(text: str, *, source: str = "habari.yaml") -> Tenant:
    """Return the tenant that a declaration describes; an empty text is the default tenant.

    Args:
        text: YAML 1.1 without tags of other languages.
        source: What the error message calls the text.

    Raises:
        ConfigError: If the text is not YAML, has an unknown or repeated key or a value of a wrong type;
            the message names the line.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_keys(node, source, set())
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        msg = f"{source}, line {line}: not valid YAML: {error.problem}."
        raise errors.ConfigError(msg) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        msg = f"{source}, line {line}: not valid YAML: {error.reason}."
        raise errors.ConfigError(msg) from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        msg = f"{source}, line 1: expected a mapping of settings, found a {type(data).__name__}."
        raise errors.ConfigError(msg)
    try:
        return Tenant.model_validate(data)
    except pydantic.ValidationError as error:
        raise errors.ConfigError(_explain(error, node, source)) from error


def _explain(error: pydantic.ValidationError, node: yaml.Node | None, source: str) -> str:
    found = error.errors(include_url=False)
    # A misspelt key is also missing where it is needed; the misspelling is what to mend.
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    where = ".".join(str(part) for part in first["loc"])
    prefix = f"{source}, line {_line(node, first['loc'])}"
    value = first["input"]
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(_known_keys(first["loc"][:-1])))
        return f"{prefix}: unknown key {where!r}; expected one of: {known}."
    if first["type"] == "missing":
        return f"{prefix}: {where!r} is missing; add it."
    if first["type"] in ("model_type", "model_attributes_type"):
        return f"{prefix}: {where}: expected a mapping of settings, found {value!r}."
    reason = re.sub(r"^(Value error, |Input |String )", "", first["msg"]).rstrip(".")
    if first["type"] == "value_error":
        return f"{prefix}: {where}: {reason}."
    return f"{prefix}: {where}: {reason}, found {value!r}."


def _known_keys(loc: tuple[int | str, ...]) -> set[str]:
    schema: dict[str, Any] = Tenant.model_json_schema()
    here = schema
    for part in loc:
        here = here["items"] if isinstance(part, int) else here["properties"][part]
        here = next((each for each in here.get("anyOf", [here]) if "$ref" in each), here)
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].rsplit("/", 1)[1]]
    return set(here["properties"])


def _line(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            inside = {key.value: (key, value) for key, value in node.value}
        else:
            listed = node.value if isinstance(node, yaml.SequenceNode) else []
            inside = {str(index): (value, value) for index, value in enumerate(listed)}
        if str(part) not in inside:
            break
        named, node = inside[str(part)]
        line = named.start_mark.line + 1
    return line


def _refuse_keys(node: yaml.Node | None, source: str, done: set[int]) -> None:
    """Raise ConfigError for a key that stands twice, which YAML would let pass, or that is not plain text."""
    if id(node) in done:  # an alias
        return
    done.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                msg = f"{source}, line {key.start_mark.line + 1}: expected the name of a setting, found a collection."
                raise errors.ConfigError(msg)
            if key.value in seen:
                msg = f"{source}, line {key.start_mark.line + 1}: the key {key.value!r} stands twice; remove one."
                raise errors.ConfigError(msg)
            seen.add(key.value)
            _refuse_keys(value, source, done)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_keys(value, source, done)
