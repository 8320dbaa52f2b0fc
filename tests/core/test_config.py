from __future__ import annotations

from typing import Any

import pytest

from habari.core import config, errors, model

DEFAULTS = {
    "name": "habari",
    "title": "Habari",
    "listen": {"host": "127.0.0.1", "port": 8000, "public_url": None, "subdomains": True, "tls": None},
    "sign_in": {"method": "local", "admin_users": [], "allowed_users": [], "github": None},
    "servers": {"start_timeout_s": 120, "idle_timeout_s": 3600},
    "buckets": {
        "prefix": "",
        "common": [
            {
                "name": "lake",
                "description": "Data for everyone, kept by the administrators",
                "everyone": "read",
                "admins": "write",
            },
            {
                "name": "notebooks",
                "description": "Notebooks that everyone may change",
                "everyone": "write",
                "admins": "write",
            },
        ],
    },
    "store": {"kind": "embedded", "region": "us-east-1", "reserve_gib": 2},
}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"])
def test_an_empty_declaration_has_the_promised_defaults(text: str) -> None:
    assert config.parse(text).model_dump() == DEFAULTS


def test_a_full_declaration_is_read() -> None:
    tenant = config.parse(
        """
        name: physics
        listen: {host: 0.0.0.0, port: 443, tls: {certificate: /c.pem, key: /k.pem}}
        sign_in:
          method: github
          github: {client_id: id, client_secret_file: /secret, allowed_organizations: [physics]}
        buckets: {prefix: physics-, common: [{name: data, everyone: none}]}
        """
    )
    assert tenant.listen.tls is not None
    assert tenant.sign_in.github is not None
    assert tenant.sign_in.github.api_url == "https://api.github.com"
    assert tenant.buckets.common[0].grants("physics-data") == [
        model.Grant("physics-data", model.ADMINS, model.Access.WRITE, given_by="habari.yaml")
    ]


def test_an_alias_may_stand_in_several_places() -> None:
    tenant = config.parse("sign_in: {admin_users: &who [ada], allowed_users: *who}")
    assert tenant.sign_in.admin_users == tenant.sign_in.allowed_users == ["ada"]


def test_the_default_lake_is_kept_by_admins_and_read_by_everyone() -> None:
    lake, notebooks = config.parse("").buckets.common
    assert [(each.grantee, each.access) for each in lake.grants("lake")] == [
        (model.EVERYONE, model.Access.READ),
        (model.ADMINS, model.Access.WRITE),
    ]
    assert {each.access for each in notebooks.grants("notebooks")} == {model.Access.WRITE}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "line 1: not valid YAML: expected the node content, but found '<stream end>'."),
        ("a: b: c", "line 1: not valid YAML: mapping values are not allowed here."),
        ("name: x\na: \x01", "line 2: not valid YAML: special characters are not allowed."),
        (
            "a: !!python/name:os.system x",
            (
                "line 1: not valid YAML: could not determine a constructor for the tag "
                "'tag:yaml.org,2002:python/name:os.system'."
            ),
        ),
        ("- 1", "line 1: expected a mapping of settings, found a list."),
        ("just text", "line 1: expected a mapping of settings, found a str."),
        ("name: a\nname: b", "line 2: the key 'name' stands twice; remove one."),
        ("buckets:\n  common:\n  - name: a\n    name: b", "line 4: the key 'name' stands twice; remove one."),
        ("? [a]\n: 1", "line 1: expected the name of a setting, found a collection."),
        ("&a [*a]", "line 1: expected a mapping of settings, found a list."),
        (
            "nmae: x",
            "line 1: unknown key 'nmae'; expected one of: buckets, listen, name, servers, sign_in, store, title.",
        ),
        (
            "listen:\n  port: 1\n  tls:\n    certificate: c\n    kye: k",
            "line 5: unknown key 'listen.tls.kye'; expected one of: certificate, key.",
        ),
        (
            "buckets:\n  common:\n  - name: lake\n  - name: x-y\n    everybody: read",
            "line 5: unknown key 'buckets.common.1.everybody'; expected one of: admins, description, everyone, name.",
        ),
        ("listen: {tls: {certificate: c}}", "line 1: 'listen.tls.key' is missing; add it."),
        ("name: 3", "line 1: name: should be a valid string, found 3."),
        (
            "\nname: Ä",
            "line 2: name: should match pattern '^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$', found 'Ä'.",
        ),
        (
            "servers:\n  start_timeout_s: '10'",
            "line 2: servers.start_timeout_s: should be a valid integer, found '10'.",
        ),
        ("servers: {idle_timeout_s: true}", "line 1: servers.idle_timeout_s: should be a valid integer, found True."),
        ("listen: {port: 70000}", "line 1: listen.port: should be less than or equal to 65535, found 70000."),
        ("listen: null", "line 1: listen: expected a mapping of settings, found None."),
        ("listen: [1]", "line 1: listen: expected a mapping of settings, found [1]."),
        ("buckets:\n  common: lake", "line 2: buckets.common: should be a valid list, found 'lake'."),
        ("buckets:\n  common:\n  - lake", "line 3: buckets.common.0: expected a mapping of settings, found 'lake'."),
        ("store: {kind: tape}", "line 1: store.kind: should be 'embedded', found 'tape'."),
        (
            "buckets:\n  common:\n  - name: user-ada",
            (
                "line 3: buckets.common.0.name: The bucket name 'user-ada' starts with 'user-', which is kept for "
                "personal buckets; choose another name."
            ),
        ),
        (
            "buckets:\n  common:\n  - name: lake\n  - name: lake",
            "line 2: buckets.common: the bucket 'lake' is declared twice.",
        ),
        (
            "title: x\nsign_in:\n  method: github",
            "line 2: sign_in: the method 'github' needs the section 'github' with client_id and client_secret_file.",
        ),
        ("<<: {name: 3}", "line 1: name: should be a valid string, found 3."),
        ("1: 2", "line 1: 1: Keys should be strings, found 1."),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, sentence: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        config.parse(text, source="/etc/habari.yaml")
    assert str(caught.value) == f"/etc/habari.yaml, {sentence}"


def test_the_schema_documents_every_setting() -> None:
    schema = config.Tenant.model_json_schema()
    for name, section in [("Tenant", schema), *schema["$defs"].items()]:
        assert section["additionalProperties"] is False, name
        for key, setting in section["properties"].items():
            described = setting.get("description") or ("$ref" in setting and schema["$defs"][key_of(setting)])
            assert described, f"{name}.{key}"


def key_of(setting: dict[str, str]) -> str:
    return setting["$ref"].rsplit("/", 1)[1]


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ({}, "http://localhost:8000"),
        ({"host": "::1", "port": 80}, "http://localhost"),
        ({"host": "192.0.2.1", "port": 443, "tls": {"certificate": "c", "key": "k"}}, "https://192.0.2.1"),
        ({"host": "2001:db8::1"}, "http://[2001:db8::1]:8000"),
        ({"host": "0.0.0.0", "public_url": "https://habari.example.org/"}, "https://habari.example.org"),  # noqa: S104 - no socket
    ],
)
def test_the_address_that_people_type(listen: dict[str, Any], url: str) -> None:
    assert config.Listen.model_validate(listen).url == url
