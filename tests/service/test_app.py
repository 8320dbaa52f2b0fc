"""The REST API: its answers, its one shape of error, its headers, limits and document."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import jsonschema
import pytest
from cryptography import fernet

from habari.core import errors, model, policy
from habari.service import app
from habari.storage import memory


def error(answer: httpx.Response) -> tuple[int, str, str]:
    """Return status, code and message of an answer that must have the one shape of errors."""
    detail = model.ErrorBody.model_validate_json(answer.content).error
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, detail.code, detail.message


async def test_health_needs_nothing(serving: Any) -> None:
    async with serving() as api:
        answer = await api.http.get("health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_an_ensure_is_told_line_by_line(serving: Any) -> None:
    async with serving() as api:
        answer = await api.ensure()
        assert answer.headers["content-type"] == "application/x-ndjson"
        steps = [model.Step.model_validate_json(line) for line in answer.text.splitlines()]
        assert [(step.step, step.state) for step in steps][-1] == ("ready", "done")
        assert len(steps) == 7


async def test_an_ensure_that_fails_says_why_in_its_last_line(serving: Any) -> None:
    async with serving() as api:
        api.faulty.away = True
        steps = [json.loads(line) for line in (await api.ensure()).text.splitlines()]
        assert steps[-1] == {"step": "identity", "state": "failed", "message": "The object store does not answer."}


async def test_an_ensure_that_is_refused_has_a_status(serving: Any) -> None:
    async with serving() as api:
        await api.ensure()
        assert error(await api.ensure(subject="other"))[:2] == (409, "conflict")
        assert error(await api.ensure("x" * 256))[:2] == (400, "invalid_input")
        assert error(await api.ensure(subject=""))[:2] == (422, "invalid_input")


async def test_the_hub_alone_ends_an_access(serving: Any) -> None:
    async with serving() as api:
        await api.ensure()
        person = {"issuer": "local", "subject": "ada"}
        assert error(await api.http.post("users/ada/retire", json=person))[0] == 401
        assert await api.faulty.store.list_keys("user-ada") != []
        headers = {"Authorization": "Bearer launch-token-of-these-tests"}
        assert (await api.http.post("users/ada/retire", json=person, headers=headers)).status_code == 204
        assert await api.faulty.store.list_keys("user-ada") == []


async def test_a_sign_in_is_checked_without_the_store(serving: Any) -> None:
    async with serving() as api:
        api.faulty.away = True
        headers = {"Authorization": "Bearer launch-token-of-these-tests"}
        person = {"issuer": "local", "subject": "1"}
        assert (await api.http.post("users/ada/check", json=person, headers=headers)).status_code == 204
        assert (await api.http.post("users/ada/check", json=person, headers=headers)).status_code == 204
        other = await api.http.post("users/ada/check", json={**person, "subject": "2"}, headers=headers)
        assert error(other)[:2] == (409, "conflict")
        assert error(await api.http.post("users/ada/check", json=person))[0] == 401


@pytest.mark.parametrize(
    "shown", ["", "Bearer", "Bearer ", "Bearer wrong", "token launch-token-of-these-tests", "Bearer ünsinn"]
)
async def test_only_the_launch_token_ensures(serving: Any, shown: str) -> None:
    async with serving() as api:
        body = {"issuer": "local", "subject": "1"}
        answer = await api.http.post("users/ada/ensure", json=body, headers={"Authorization": shown.encode()})
        assert error(answer) == (
            401,
            "not_authenticated",
            "Only the hub may do this, and the launch token shown is not the hub's; give both the same one.",
        )
        assert answer.headers["www-authenticate"] == "token"


async def test_what_is_not_there(serving: Any) -> None:
    async with serving() as api:
        assert error(await api.http.get("nothing")) == (
            404,
            "not_found",
            "There is nothing at /services/storage/api/v1/nothing; the API's document lists what there is.",
        )
        assert error(await api.http.get("http://test/"))[0] == 404
        assert error(await api.http.get("health/"))[0] == 404
        assert error(await api.http.get("http://test/docs"))[0] == 404


async def test_a_method_that_is_not_allowed(serving: Any) -> None:
    async with serving() as api:
        answer = await api.http.delete("health")
        status, code, message = error(answer)
        assert (status, code) == (405, "method_not_allowed")
        assert message == (
            "The method DELETE is not allowed at /services/storage/api/v1/health; "
            "the API's document lists what there is."
        )
        assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"{", "body.1: JSON decode error"),
        (b"{}", "body.issuer: Field required"),
        (b'{"issuer": "a", "subject": "b", "sub": 1}', "body.sub: Extra inputs are not permitted"),
        (b'{"issuer": "a", "subject": "\\ud800"}', "body"),
    ],
)
async def test_a_body_that_is_not_valid(serving: Any, body: bytes, where: str) -> None:
    async with serving() as api:
        headers = {"Authorization": "Bearer launch-token-of-these-tests", "Content-Type": "application/json"}
        status, code, message = error(await api.http.post("users/ada/ensure", content=body, headers=headers))
        assert (status, code) == (422, "invalid_input")
        assert message.startswith(f"The request is not valid at {where}")


async def test_a_body_that_is_too_large(serving: Any) -> None:
    async with serving() as api:
        answer = await api.ensure(groups=["x" * app.MAX_BODY_BYTES])
        assert error(answer) == (
            413,
            "refused",
            "The request was refused: it is larger than 1,048,576 bytes.",
        )


async def test_what_nobody_foresaw_tells_nothing_private(
    serving: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as api:

        async def fail() -> None:
            message = "a private detail"
            raise RuntimeError(message)

        monkeypatch.setattr(api.parts.hub, "check", fail)
        status, code, message = error(await api.http.get("ready"))
        assert (status, code) == (500, "internal_error")
        assert message.startswith("The storage service failed in a way nobody foresaw; tell your administrator")
        assert "private" not in message
        number = message.rstrip(".").rpartition(" ")[2]
        assert f"Incident {number} while answering GET /services/storage/api/v1/ready." in caplog.text
        assert "a private detail" in caplog.text


async def test_ready_says_what_is_away(serving: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as api:
        answer = await api.http.get("ready")
        assert error(answer) == (
            503,
            "unavailable",
            "The hub does not answer (ClientConnectorError); try again in a moment.",
        )
        assert answer.headers["retry-after"] == "5"
        api.faulty.away = True
        assert error(await api.http.get("ready"))[2] == "The object store does not answer."
        assert "GET /services/storage/api/v1/ready: 503 The object store does not answer." in caplog.text


@pytest.fixture(autouse=True)
def _log_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def test_every_answer_has_the_security_headers(serving: Any) -> None:
    async with serving() as api:
        for answer in (
            await api.http.get("health"),
            await api.http.get("nothing"),
            await api.http.get("me"),
            await api.ensure(),
            await api.http.get("openapi.json"),
        ):
            assert {name: answer.headers.get_list(name) for name in ("cache-control", "x-content-type-options")} == {
                "cache-control": ["no-store"],
                "x-content-type-options": ["nosniff"],
            }
            assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "server" not in answer.headers


async def test_the_document_is_valid_and_names_every_error(serving: Any) -> None:
    async with serving() as api:
        document = (await api.http.get("openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    operations = {
        operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()
    }
    assert set(operations) == {"health", "ready", "checkUser", "ensureUser", "retireUser", "me", "myBuckets"}
    for operation in operations.values():
        assert operation["description"]
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
    assert operations["me"]["security"] == [{"hubToken": []}]
    assert operations["ensureUser"]["security"] == [{"launchToken": []}]
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [each for value in node.values() for each in _references(value)]
    return [each for value in node for each in _references(value)] if isinstance(node, list) else []


class Broken(memory.Memory):
    """A store whose backend has a mistake."""

    async def get_group_policy(self, group: str) -> policy.Policy | None:
        message = f"a mistake in the sweep over {group}"
        raise RuntimeError(message)


async def test_a_sweep_that_ends_ends_the_service_loudly(serving: Any) -> None:
    backend = Broken()
    with pytest.raises(ExceptionGroup) as caught:
        async with serving(backend=backend):
            await asyncio.Event().wait()
    assert "a mistake in the sweep" in str(caught.value.exceptions[0])


async def test_encryption_keys_that_do_not_fit_are_refused(serving: Any, encryption_key: str) -> None:
    newer = fernet.Fernet.generate_key().decode()
    async with serving() as api:
        await api.ensure()
        key = (await api.parts.views.me("ada")).keys
    async with serving(encryption_keys=(newer, encryption_key), backend=api.faulty) as api:
        assert (await api.parts.views.me("ada")).keys == key
    with pytest.raises(errors.ConfigError) as caught:
        async with serving(encryption_keys=(newer,)):
            pass
    assert str(caught.value) == (
        "A user's key in the database was sealed with an encryption key that is not in the secret encryption_keys; "
        "put that key back in the file, after the newest one."
    )


async def test_no_secret_in_the_database(serving: Any, tmp_path: Any) -> None:
    async with serving() as api:
        await api.ensure()
        secret = (await api.parts.views.me("ada")).keys.secret_access_key
        everything = b"".join(file.read_bytes() for file in tmp_path.glob("storage.sqlite*"))
        assert b"user-ada" in everything
        assert secret.encode() not in everything
