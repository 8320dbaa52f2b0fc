"""The S3 variables: what is set, what is taken away, and that a server without keys never starts."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import logging
import os
import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import habari.server
from habari.core import errors, model
from habari.server import buckets, clients, environment, source

STORE = buckets.Store("http://127.0.0.1:8333", "eu-x", model.AccessKey("AK", "SK"))


def make_me(**changes: Any) -> model.Me:
    document = {
        "user": "ada",
        "bucket": "user-ada",
        "endpoint_url": "http://127.0.0.1:8333/",
        "region": "us-east-1",
        "keys": {"access_key_id": "AK", "secret_access_key": "SK"},
        "buckets": [],
    }
    return model.Me.model_validate(document | changes)


def test_the_variables_that_clients_read() -> None:
    assert environment.variables(STORE) == {
        "S3_ENDPOINT_URL": "http://127.0.0.1:8333",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:8333",
        "AWS_ACCESS_KEY_ID": "AK",
        "AWS_SECRET_ACCESS_KEY": "SK",
        "AWS_DEFAULT_REGION": "eu-x",
        "AWS_REGION": "eu-x",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_ALLOW_HTTP": "true",
        "DUCKDB_S3_ENDPOINT": "127.0.0.1:8333",
        "DUCKDB_S3_USE_SSL": "false",
    }


def test_plain_http_is_not_allowed_where_the_store_speaks_tls() -> None:
    found = environment.variables(buckets.Store("https://s3.example.org/base", "r", STORE.keys))
    assert "AWS_ALLOW_HTTP" not in found
    assert found["DUCKDB_S3_USE_SSL"] == "true"
    assert found["DUCKDB_S3_ENDPOINT"] == "s3.example.org/base"


def test_nothing_that_leads_to_a_broader_credential_is_kept() -> None:
    variables = {
        "AWS_PROFILE": "operator",
        "AWS_SESSION_TOKEN": "t",
        "AWS_ROLE_ARN": "arn",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/token",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/c",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "t",
        "AWS_SHARED_CREDENTIALS_FILE": "/operator",
        "AWS_CONFIG_FILE": "/operator",
        "AWS_ENDPOINT_URL": "http://elsewhere",
        "aws_secret_access_key": "operator's",
        "FSSPEC_S3_KEY": "operator's",
        "DUCKDB_S3_KMS_KEY_ID": "operator's",
        "AWS_CA_BUNDLE": "/ca.pem",
        "PATH": "/bin",
    }
    environment.replace(variables, STORE, bucket="user-ada")
    expected = environment.variables(STORE) | {"AWS_EC2_METADATA_DISABLED": "true", "HABARI_BUCKET": "user-ada"}
    assert variables == expected | {"AWS_CA_BUNDLE": "/ca.pem", "PATH": "/bin"}


def test_what_a_person_set_stays() -> None:
    variables = {"AWS_ENDPOINT_URL_S3": "https://mine", "AWS_SESSION_TOKEN": "t", "AWS_REGION": ""}
    environment.complete(variables, STORE)
    assert variables["AWS_ENDPOINT_URL_S3"] == "https://mine"
    assert variables["AWS_SESSION_TOKEN"] == "t"
    assert variables["AWS_REGION"] == "eu-x"


def test_the_store_that_variables_stand_for() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}
    assert environment.store(keys).endpoint_url == "https://s3.us-east-1.amazonaws.com"
    assert environment.store(keys | {"AWS_DEFAULT_REGION": "eu-1"}).endpoint_url == "https://s3.eu-1.amazonaws.com"
    found = environment.store(
        keys | {"S3_ENDPOINT_URL": "http://a/", "AWS_ENDPOINT_URL_S3": "http://b", "AWS_SESSION_TOKEN": "t"}
    )
    assert found == buckets.Store("http://a", "us-east-1", model.AccessKey("AK", "SK"), "t")
    assert "SK" not in repr(found)


def test_variables_without_keys_are_refused() -> None:
    with pytest.raises(errors.ConfigError) as caught:
        environment.store({"AWS_ACCESS_KEY_ID": ""})
    assert str(caught.value) == (
        "The environment has no AWS_ACCESS_KEY_ID and no AWS_SECRET_ACCESS_KEY; set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY (and S3_ENDPOINT_URL, if the object store is not AWS), then try again."
    )


@pytest.mark.parametrize("url", ["s3.example.org", "ftp://s3", "http://", "http://[::1"])
def test_an_endpoint_that_is_none_is_refused(url: str) -> None:
    variables = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_ENDPOINT_URL_S3": url}
    with pytest.raises(errors.ConfigError) as caught:
        environment.store(variables)
    assert str(caught.value) == f"AWS_ENDPOINT_URL_S3 is {url!r}; expected a URL such as https://s3.example.org."
    with pytest.raises(errors.HabariError) as refused:
        environment.from_me(make_me(endpoint_url=url))
    assert str(refused.value) == f"The storage service names the endpoint {url!r}; expected an http or https URL."


def test_an_answer_without_keys_is_refused() -> None:
    assert environment.from_me(make_me()) == buckets.Store("http://127.0.0.1:8333", "us-east-1", STORE.keys)
    with pytest.raises(errors.HabariError) as caught:
        environment.from_me(make_me(keys={"access_key_id": "AK", "secret_access_key": " "}, bucket=""))
    assert str(caught.value) == (
        "The storage service's answer for the user 'ada' has no secret access key and no personal bucket; "
        "tell an administrator."
    )


@pytest.fixture
def silent_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path / "server.pem"
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


class TestStorageService:
    def service(self, storage: Any) -> source.StorageService:
        storage.requests.clear()
        storage.answers.clear()
        return source.StorageService(storage.url, "token-of-ada", timeout_s=1, total_s=1)

    async def test_it_is_asked_with_the_token_of_the_server(self, storage: Any) -> None:
        me = await self.service(storage).me()
        assert me.keys.secret_access_key == storage.me["keys"]["secret_access_key"]
        assert storage.requests == [("/services/storage/api/v1/me", "token token-of-ada")]

    async def test_the_buckets_of_the_tree_come_from_it(self, storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in environment.variables(STORE).items():
            monkeypatch.setenv(name, value)
        [found] = await source.HubSource(self.service(storage)).buckets()
        assert found.view.name == "user-ada"
        assert found.store == STORE
        assert storage.requests == [("/services/storage/api/v1/me/buckets", "token token-of-ada")]

    async def test_a_storage_service_that_restarts_is_asked_again(self, storage: Any, error: Any) -> None:
        service = self.service(storage)
        storage.answers = [(503, error("unavailable", "Not ready yet."))] * 2
        assert (await service.me()).user == "ada"
        assert len(storage.requests) == 3

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (401, errors.NotAuthenticatedError),
            (403, errors.NotPermittedError),
            (404, errors.NotFoundError),
            (409, errors.ConflictError),
            (302, errors.HabariError),
            (500, errors.UnavailableError),
        ],
    )
    async def test_a_refusal_says_what_the_storage_service_said(
        self, storage: Any, error: Any, status: int, expected: type[Exception]
    ) -> None:
        service = self.service(storage)
        storage.answers = [(status, error("code", "Ada is retired."))] * 9
        with pytest.raises(expected) as caught:
            await service.me()
        assert f"answered {status} at {storage.url}api/v1/me: Ada is retired." in str(caught.value)
        assert "token-of-ada" not in str(caught.value)
        assert len(storage.requests) == 1 if status < 500 else len(storage.requests) > 2

    async def test_an_answer_that_is_not_understood_shows_no_key(self, storage: Any) -> None:
        service = self.service(storage)
        storage.answers = [(200, b'{"user": 1, "keys": {"access_key_id": "AK", "secret_access_key": ["s3cret"]}}')]
        with pytest.raises(errors.UnavailableError) as caught:
            await service.me()
        assert "(fields: bucket, buckets, endpoint_url, keys.secret_access_key, region, user)" in str(caught.value)
        assert "different versions" in str(caught.value)
        assert "s3cret" not in str(caught.value)
        assert caught.value.__cause__ is None

    async def test_an_answer_that_is_not_json_is_named(self, storage: Any) -> None:
        service = self.service(storage)
        storage.answers = [(403, b"<html>")]
        with pytest.raises(errors.NotPermittedError, match=r"answered 403 at .*: expected its JSON"):
            await service.me()

    async def test_a_storage_service_that_hangs_is_named(self, silent_port: int) -> None:
        service = source.StorageService(f"http://127.0.0.1:{silent_port}/", "t", timeout_s=5, total_s=0.3)
        with pytest.raises(errors.UnavailableError) as caught:
            await service.me()
        assert str(caught.value) == (
            f"The storage service does not answer at http://127.0.0.1:{silent_port}/api/v1/me within 0.3 seconds; "
            "try again later."
        )

    async def test_the_certificate_is_checked(self, self_signed: ssl.SSLContext) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = await asyncio.start_server(lambda *_: None, sock=listener, ssl=self_signed)
            async with server:
                url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
                with pytest.raises(errors.UnavailableError) as caught:
                    await source.StorageService(url, "token-of-ada", total_s=0.5).me()
        assert "(ClientConnectorCertificateError)" in str(caught.value)

    async def test_a_storage_service_that_is_gone_is_named(self) -> None:
        service = source.StorageService("http://127.0.0.1:1/services/storage/", "t", total_s=0.5)
        with pytest.raises(errors.UnavailableError) as caught:
            await service.me()
        assert str(caught.value) == (
            "The storage service does not answer at http://127.0.0.1:1/services/storage/api/v1/me "
            "(ClientConnectorError); try again later."
        )


async def test_buckets_that_a_person_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.variables(STORE).items():
        monkeypatch.setenv(name, value)
    found = await source.NamedSource(["b", "a"]).buckets()
    assert [(each.view.name, each.view.access, each.store) for each in found] == [
        ("b", "write", STORE),
        ("a", "write", STORE),
    ]


def test_a_list_of_buckets_is_read() -> None:
    body = (
        b"<ListAllMyBucketsResult><Owner><ID>x</ID></Owner><Buckets><Bucket><Name>b&amp;c</Name></Bucket>"
        b"<Bucket><Name>a</Name></Bucket></Buckets></ListAllMyBucketsResult>"
    )
    assert source._bucket_names(body) == ["a", "b&c"]
    for other in (b"<html><body>hello</body></html>", b"{}"):
        with pytest.raises(errors.UnavailableError, match="check that the endpoint is an S3 endpoint"):
            source._bucket_names(other)


def test_a_broken_extension_ends_a_server_of_a_hub_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert habari.server._jupyter_server_extension_points() == [{"module": "habari.server.extension"}]
    monkeypatch.setenv("HABARI_STORAGE_URL", "http://127.0.0.1:1")
    assert habari.server._jupyter_server_extension_points() == [{"module": "habari.server.extension"}]


class TestDuckdb:
    """What DuckDB needs in a home; DuckDB itself is tried in `test_clients`."""

    def run(self, notebook_python: Path, home: Path) -> None:
        subprocess.run(
            [str(notebook_python), "-m", "habari.server.clients"], env={"HOME": str(home)}, check=True, timeout=60
        )

    def test_it_is_given_a_link_and_a_secret_without_a_key(self, notebook_python: Path, tmp_path: Path) -> None:
        self.run(notebook_python, tmp_path)
        [link] = tmp_path.glob(".duckdb/extensions/v*/*/httpfs.duckdb_extension")
        assert link.is_symlink()
        secret = tmp_path / ".duckdb/stored_secrets/habari.duckdb_secret"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        before = secret.stat().st_mtime_ns
        self.run(notebook_python, tmp_path)
        assert secret.stat().st_mtime_ns == before

    def test_what_the_user_has_stays(self, notebook_python: Path, tmp_path: Path) -> None:
        self.run(notebook_python, tmp_path)
        [link] = tmp_path.glob(".duckdb/extensions/v*/*/httpfs.duckdb_extension")
        link.unlink()
        link.write_bytes(b"the user's own")
        self.run(notebook_python, tmp_path)
        assert link.read_bytes() == b"the user's own"

    def test_a_link_to_an_environment_that_is_gone_is_mended(self, notebook_python: Path, tmp_path: Path) -> None:
        self.run(notebook_python, tmp_path)
        [link] = tmp_path.glob(".duckdb/extensions/v*/*/httpfs.duckdb_extension")
        target = link.readlink()
        link.unlink()
        link.symlink_to("/nowhere")
        self.run(notebook_python, tmp_path)
        assert link.readlink() == target

    def test_an_environment_without_duckdb_needs_nothing(self, tmp_path: Path) -> None:
        assert clients.duckdb_is_configured(tmp_path)


def test_nothing_is_logged_by_asking(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        environment.replace(dict(os.environ), STORE, bucket="b")
    assert "SK" not in caplog.text
