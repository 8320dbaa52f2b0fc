"""What two people's programs find when they come through the hub: keys, variables, S3 clients, homes, packages."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import html
import json
import os
import signal
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import channels
import person
import platform_process
import pytest
import pytest_asyncio

from habari.local import accounts, servers

pytestmark = [pytest.mark.hub, pytest.mark.asyncio(loop_scope="module")]

CSV = "a,b\n1,2\n3,4\n"

CLIENTS = {
    "boto3": """
        import boto3, io
        s3 = boto3.client("s3")
        s3.put_object(Bucket=mine, Key="out/boto3.txt", Body=b"hello")
        assert s3.get_object(Bucket=mine, Key="out/boto3.txt")["Body"].read() == b"hello"
        large = b"x" * (9 * 1024 * 1024)
        s3.upload_fileobj(io.BytesIO(large), mine, "out/large")
        assert s3.head_object(Bucket=mine, Key="out/large")["ContentLength"] == len(large)
        refused("AccessDenied", lambda: s3.get_object(Bucket=hers, Key="given.csv"))
        refused("AccessDenied", lambda: s3.put_object(Bucket=hers, Key="planted", Body=b""))
        refused("AccessDenied", lambda: s3.list_objects_v2(Bucket=hers))
    """,
    "s3fs": """
        import s3fs
        files = s3fs.S3FileSystem()
        with files.open(f"{mine}/out/s3fs.txt", "w") as file:
            file.write("hello")
        assert files.cat(f"{mine}/out/s3fs.txt") == b"hello"
        assert f"{mine}/given.csv" in files.ls(mine)
        refused("Access Denied", lambda: files.ls(hers))
        refused("Forbidden", lambda: files.cat(f"{hers}/given.csv"))
        refused("Access Denied", lambda: files.pipe(f"{hers}/planted", b""))
    """,
    "pandas": """
        import pandas
        assert pandas.read_csv(f"s3://{mine}/given.csv")["b"].tolist() == [2, 4]
        table = pandas.DataFrame({"a": [1, 2]})
        table.to_csv(f"s3://{mine}/out/pandas.csv", index=False)
        assert pandas.read_csv(f"s3://{mine}/out/pandas.csv")["a"].tolist() == [1, 2]
        table.to_parquet(f"s3://{mine}/out/pandas.parquet")
        assert pandas.read_parquet(f"s3://{mine}/out/pandas.parquet")["a"].tolist() == [1, 2]
        refused("Forbidden", lambda: pandas.read_csv(f"s3://{hers}/given.csv"))
        refused("Access Denied", lambda: table.to_csv(f"s3://{hers}/planted"))
    """,
    "pyarrow": """
        import pyarrow, pyarrow.dataset, pyarrow.fs, pyarrow.parquet
        table = pyarrow.table({"a": [1, 2]})
        pyarrow.parquet.write_table(table, f"s3://{mine}/out/pyarrow.parquet")
        assert pyarrow.parquet.read_table(f"s3://{mine}/out/pyarrow.parquet") == table
        pyarrow.dataset.write_dataset(table, f"s3://{mine}/out/dataset", format="parquet")
        assert pyarrow.dataset.dataset(f"s3://{mine}/out/dataset").to_table() == table
        files, path = pyarrow.fs.FileSystem.from_uri(f"s3://{hers}/given.csv")
        refused("ACCESS_DENIED", lambda: files.open_input_file(path).read())
        refused("ACCESS_DENIED", lambda: pyarrow.parquet.write_table(table, f"s3://{hers}/planted"))
    """,
    "polars": """
        import polars
        assert polars.read_csv(f"s3://{mine}/given.csv")["b"].to_list() == [2, 4]
        table = polars.DataFrame({"a": [1, 2]})
        table.write_parquet(f"s3://{mine}/out/polars.parquet")
        assert polars.scan_parquet(f"s3://{mine}/out/polars.parquet").collect()["a"].to_list() == [1, 2]
        table.lazy().sink_csv(f"s3://{mine}/out/polars.csv")
        assert polars.scan_csv(f"s3://{mine}/out/pol*.csv").collect().height == 2
        refused("403", lambda: polars.read_csv(f"s3://{hers}/given.csv"))
        refused("403", lambda: table.write_parquet(f"s3://{hers}/planted"))
    """,
    "duckdb": """
        import duckdb
        assert duckdb.sql(f"select sum(b) from read_csv('s3://{mine}/given.csv')").fetchone() == (6,)
        duckdb.sql(f"copy (select 7 as a) to 's3://{mine}/out/duckdb.parquet'")
        with duckdb.connect() as other:
            assert other.sql(f"from 's3://{mine}/out/duck*.parquet'").fetchall() == [(7,)]
        refused("403", lambda: duckdb.sql(f"from read_csv('s3://{hers}/given.csv')").fetchall())
        refused("403", lambda: duckdb.sql(f"copy (select 7 as a) to 's3://{hers}/planted.parquet'"))
    """,
}

PRELUDE = """
import os
mine, hers = os.environ["HABARI_BUCKET"], "user-ada"

def refused(words, work):
    try:
        result = work()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        assert words.lower() in said.lower(), said
    else:
        raise AssertionError(f"nobody refused; the answer is {result!r}")
"""

OFFERED = {
    "AWS_ACCESS_KEY_ID",
    "AWS_ALLOW_HTTP",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_SECRET_ACCESS_KEY",
    "DUCKDB_S3_ENDPOINT",
    "DUCKDB_S3_USE_SSL",
    "HABARI_BUCKET",
    "HABARI_DEBUGGER",
    "HABARI_STORAGE_URL",
    "S3_ENDPOINT_URL",
}
"""All variables of these kinds that a server, a kernel or a terminal has."""

WHEEL = """
import pathlib, zipfile
info = "tiny_thing-1.0.dist-info"
members = {
    "tiny_thing.py": "def main():\\n    print('ran')\\n",
    f"{info}/METADATA": "Metadata-Version: 2.1\\nName: tiny-thing\\nVersion: 1.0\\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\\nGenerator: hand\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    f"{info}/entry_points.txt": "[console_scripts]\\ntiny-thing = tiny_thing:main\\n",
}
with zipfile.ZipFile(pathlib.Path.home() / "tiny_thing-1.0-py3-none-any.whl", "w") as wheel:
    for name, text in members.items():
        wheel.writestr(name, text)
    wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\\n" for name in [*members, f"{info}/RECORD"]))
"""

NOTEBOOK = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@dataclasses.dataclass(frozen=True)
class Two:
    """Two people with running servers, and a kernel of the second's."""

    ada: person.Person
    bob: person.Person
    kernel: channels.Kernel


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[platform_process.Platform]:
    # What the operator's shell has must reach no user.
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "MY_SECRET"):
            patch.setenv(name, "of-the-operator")
        running = platform_process.Platform(tmp_path_factory.mktemp("habari") / "data")
        running.start()
    yield running
    assert running.stop() == 0
    assert running.processes() == {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(platform: platform_process.Platform) -> AsyncIterator[Two]:
    file = platform.folder / accounts.FILE
    passwords = {name: accounts.add(file, name) for name in ("ada", "bob")}
    async with (
        person.Person(platform.url, "ada", passwords["ada"]) as ada,
        person.Person(platform.url, "bob", passwords["bob"]) as bob,
    ):
        for each in (ada, bob):
            assert await each.sign_in() == 200
            await each.launch()
            body = {"type": "file", "format": "text", "content": CSV}
            status, model = await each.request("PUT", f"api/contents/buckets/user-{each.name}/given.csv", json=body)
            assert status == 201, model
        async with channels.kernel(bob) as kernel:
            await kernel.run(PRELUDE)
            yield Two(ada, bob, kernel)


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_opens_ones_own_bucket_and_no_other_with_no_setting(two: Two, client: str) -> None:
    assert await two.kernel.run(f"{textwrap.dedent(CLIENTS[client])}\nprint('worked')") == "worked\n"
    assert await two.ada.names("buckets/user-ada") == ["given.csv"]


async def test_what_a_kernel_writes_is_in_the_tree(two: Two) -> None:
    code = 'import pandas; pandas.DataFrame({"a": [1]}).to_csv(f"s3://{mine}/seen/new.csv")'
    assert await two.kernel.run(code) == ""
    assert await two.bob.names("buckets/user-bob/seen") == ["new.csv"]


async def test_the_variables_are_the_same_in_kernel_and_terminal(two: Two, platform: platform_process.Platform) -> None:
    kernel = await two.kernel.ask("import json; print(json.dumps(dict(os.environ)))")
    printed = await channels.run_in_terminal(
        two.bob, "python -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    )
    terminal = json.loads(printed)
    kinds = ("AWS_", "S3_", "DUCKDB_", "HABARI_")
    for seen in (kernel, terminal):
        assert {name for name in seen if name.startswith(kinds)} == OFFERED
        assert {name: seen[name] for name in OFFERED} == {name: kernel[name] for name in OFFERED}
        assert "of-the-operator" not in seen.values()
    ports = json.loads((platform.folder / "run" / "ports.json").read_text())
    assert kernel["S3_ENDPOINT_URL"] == kernel["AWS_ENDPOINT_URL_S3"] == f"http://127.0.0.1:{ports['store-s3']}"
    assert kernel["AWS_DEFAULT_REGION"] == "us-east-1"
    assert kernel["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"
    assert kernel["AWS_RESPONSE_CHECKSUM_VALIDATION"] == "when_required"
    assert kernel["HABARI_BUCKET"] == "user-bob"
    assert min(len(kernel["AWS_ACCESS_KEY_ID"]), len(kernel["AWS_SECRET_ACCESS_KEY"])) >= 20


async def test_the_hub_hands_no_key_to_the_server(two: Two, platform: platform_process.Platform) -> None:
    """Kernels and terminals inherit from the server what it fetched itself."""
    started = [_started_with(pid) for pid in platform.processes()]
    of_bob = [each for each in started if f"JUPYTERHUB_USER={two.bob.name}" in each]
    assert of_bob
    for variables in of_bob:
        assert not [each for each in variables if each.startswith(("AWS_", "S3_")) or each.endswith("of-the-operator")]


async def test_pip_installs_into_the_home_and_at_once(two: Two) -> None:
    assert await two.kernel.run(WHEEL) == ""
    said = await two.kernel.run("%pip install --no-index ~/tiny_thing-1.0-py3-none-any.whl")
    assert "Successfully installed tiny-thing-1.0" in said
    assert "WARNING" not in said
    assert await two.kernel.run("import tiny_thing; tiny_thing.main(); print(tiny_thing.__file__)") == (
        f"ran\n{await _home(two)}/.local/lib/{await _version(two)}/site-packages/tiny_thing.py\n"
    )
    assert await channels.run_in_terminal(two.bob, "tiny-thing") == "ran\n"
    assert "ModuleNotFoundError" in await two.ada.run("import tiny_thing")


async def test_an_installed_package_is_there_after_a_relaunch(two: Two) -> None:
    async with channels.kernel(two.bob) as other:
        assert await other.run("import tiny_thing; tiny_thing.main()") == "ran\n"


async def test_a_notebook_in_a_bucket_runs_in_the_home(two: Two) -> None:
    for path in ("buckets/notebooks/deep/x.ipynb", "x.ipynb"):
        if "/" in path:
            await two.bob.request("PUT", f"api/contents/{path.rpartition('/')[0]}", json={"type": "directory"})
        body = {"type": "notebook", "format": "json", "content": NOTEBOOK}
        status, model = await two.bob.request("PUT", f"api/contents/{path}", json=body)
        assert status == 201, model
        async with channels.kernel(two.bob, path) as kernel:
            assert await kernel.run("import os; print(os.getcwd())") == f"{await _home(two)}\n"


async def test_a_notebook_in_a_folder_of_the_home_runs_there(two: Two) -> None:
    await two.kernel.run("os.makedirs(os.path.expanduser('~/project'), exist_ok=True)")
    body = {"type": "notebook", "format": "json", "content": NOTEBOOK}
    await two.bob.request("PUT", "api/contents/project/y.ipynb", json=body)
    async with channels.kernel(two.bob, "project/y.ipynb") as kernel:
        assert await kernel.run("import os; print(os.getcwd())") == f"{await _home(two)}/project\n"


async def test_a_real_folder_named_buckets_stays_reachable(two: Two) -> None:
    assert "buckets (home)" not in await two.bob.names()
    await two.kernel.run("import pathlib; folder = pathlib.Path.home() / 'buckets'; folder.mkdir()")
    await two.kernel.run("(folder / 'mine.txt').write_text('x')")
    assert {"buckets", "buckets (home)"} <= set(await two.bob.names())
    assert await two.bob.names("buckets") == ["lake", "notebooks", "user-bob"]
    assert await two.bob.names("buckets (home)") == ["mine.txt"]
    assert (await two.bob.contents("buckets (home)/mine.txt"))["content"] == "x"
    body = {"type": "file", "format": "text", "content": "y"}
    status, model = await two.bob.request("PUT", "api/contents/buckets (home)/new.txt", json=body)
    assert status == 201, model
    assert await two.kernel.run("print((folder / 'new.txt').read_text())") == "y\n"


async def test_a_launch_waits_for_the_storage_service_and_the_hub_does_not(
    two: Two, platform: platform_process.Platform
) -> None:
    async with _signed_in(platform, "cat") as cat:
        pid = _pid(platform, "storage service")
        os.kill(pid, signal.SIGSTOP)
        try:
            launching = asyncio.create_task(cat.launch())
            async with asyncio.timeout(5):
                for page in ("health", "home", "home", "home"):
                    async with two.ada._session.get(f"{two.ada.url}/hub/{page}") as answer:
                        assert answer.status == 200
            assert not launching.done()
            assert not (platform.folder / servers.FOLDER / "cat").exists()
        finally:
            os.kill(pid, signal.SIGCONT)
        await launching
        assert "user-cat" in await cat.names("buckets")


async def test_without_storage_a_server_is_not_started_and_the_reason_is_shown(
    two: Two, platform: platform_process.Platform
) -> None:
    async with _signed_in(platform, "dan") as dan:
        platform.lines.clear()
        os.kill(_pid(platform, "storage service"), signal.SIGKILL)
        port = json.loads((platform.folder / "run" / "ports.json").read_text())["storage"]
        async with await _take(port):
            said = await _failure(dan)
            assert (
                "The storage service does not answer, so your bucket and keys cannot be had and your server was not "
                "started. Try again in a minute" in said
            )
            assert not (platform.folder / servers.FOLDER / "dan").exists()
            assert not (platform.folder / "logs" / "servers" / "dan.log").exists()
            async with asyncio.timeout(5), two.ada._session.get(f"{two.ada.url}/hub/home") as answer:
                assert answer.status == 200
        await asyncio.to_thread(platform.wait_for, "The storage service runs again.")
        await dan.launch()
        assert "user-dan" in await dan.names("buckets")


@contextlib.asynccontextmanager
async def _signed_in(platform: platform_process.Platform, name: str) -> AsyncIterator[person.Person]:
    async with person.Person(platform.url, name, accounts.add(platform.folder / accounts.FILE, name)) as made:
        assert await made.sign_in() == 200
        yield made


async def _take(port: int) -> asyncio.Server:
    """Take a port as soon as its owner is dead, and end every connection to it."""
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(OSError):
                return await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
            await asyncio.sleep(0.001)


async def _failure(who: person.Person) -> str:
    """Press launch and return what the page says in the end."""
    async with who._session.get(f"{who.url}/hub/spawn/{who.name}") as page:
        text = html.unescape(await page.text())
        if "/spawn-pending/" not in str(page.url):
            assert page.status != 200, text
            return text
    with pytest.raises(AssertionError) as failed:
        await who._follow(who._xsrf(text))
    return str(failed.value)


def _pid(platform: platform_process.Platform, part: str) -> int:
    return int(json.loads((platform.folder / "run" / "status.json").read_text())["parts"][part]["pid"])


def _started_with(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


async def _home(two: Two) -> str:
    return (await two.kernel.run("import os; print(os.path.expanduser('~'))")).strip()


async def _version(two: Two) -> str:
    return (await two.kernel.run("import sys; print('python%d.%d' % sys.version_info[:2])")).strip()
