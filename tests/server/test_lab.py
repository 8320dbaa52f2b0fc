"""`habari lab`: a server for whoever has S3 variables in the environment."""

from __future__ import annotations

from typing import Any

import boto3
import pytest

from habari.core import errors
from habari.server import environment, lab, source

COMMAND = "import sys; from habari.server import lab; sys.exit(lab.main(sys.argv[1].split(), sys.argv[2:]))"


@pytest.fixture(scope="module")
def variables(object_store: Any) -> dict[str, str]:
    return {
        "S3_ENDPOINT_URL": object_store.url,
        "AWS_ACCESS_KEY_ID": object_store.key.access_key_id,
        "AWS_SECRET_ACCESS_KEY": object_store.key.secret_access_key,
    }


@pytest.fixture(scope="module")
def made_buckets(variables: dict[str, str]) -> list[str]:
    names = ["lab-one", "lab-two"]
    client = boto3.client(
        "s3",
        endpoint_url=variables["S3_ENDPOINT_URL"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    for name in names:
        client.create_bucket(Bucket=name)
    client.put_object(Bucket="lab-one", Key="hello.txt", Body=b"hello")
    client.close()
    return names


def names_in(server: Any, path: str) -> list[str]:
    return [each["name"] for each in server.get(f"api/contents/{path}")["content"]]


@pytest.mark.s3
async def test_it_shows_the_buckets_that_the_store_lists(
    variables: dict[str, str], made_buckets: list[str], start_server: Any
) -> None:
    server = start_server(variables, "-c", COMMAND, "")
    assert set(made_buckets) <= set(names_in(server, "buckets"))
    assert names_in(server, "buckets/lab-one") == ["hello.txt"]
    async with server.kernel() as kernel:
        code = "import pandas; print(pandas.read_csv('s3://lab-one/hello.txt').columns[0])"
        assert (await kernel.run(code)).strip() == "hello"
        info, _ = await kernel.request("kernel_info_request", {})
    assert "debugger" in info["supported_features"]
    assert variables["AWS_SECRET_ACCESS_KEY"] not in server.log.read_text()


@pytest.mark.s3
def test_it_shows_the_buckets_named_and_needs_no_hub(
    variables: dict[str, str], made_buckets: list[str], start_server: Any
) -> None:
    hub = {"HABARI_STORAGE_URL": "http://127.0.0.1:1/", "JUPYTERHUB_API_TOKEN": "t"}
    server = start_server(variables | hub, "-c", COMMAND, made_buckets[0])
    assert names_in(server, "buckets") == ["lab-one"]


def test_missing_variables_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        lab.main()
    assert str(caught.value).startswith("The environment has no AWS_ACCESS_KEY_ID and no AWS_SECRET_ACCESS_KEY; set ")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    with pytest.raises(errors.ConfigError, match="The environment has no AWS_SECRET_ACCESS_KEY; set"):
        environment.store({"AWS_ACCESS_KEY_ID": "AK"})


def test_a_store_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    with pytest.raises(errors.UnavailableError) as caught:
        lab.main()
    assert str(caught.value) == (
        "Listing the buckets of http://127.0.0.1:1 failed: the object store does not answer "
        "(ClientConnectorError); try again."
    )


@pytest.mark.s3
async def test_keys_that_may_not_list_are_told_what_to_do(object_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_ENDPOINT_URL", object_store.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(errors.NotPermittedError) as caught:
        await source.ListedSource().buckets()
    assert str(caught.value).startswith(f"Listing the buckets of {object_store.url} failed: ")
    assert str(caught.value).endswith(" Name the buckets instead: habari lab --bucket NAME")
