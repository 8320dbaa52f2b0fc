"""Each S3 client reads and writes `s3://` in a real kernel with nothing set but what the server sets."""

from __future__ import annotations

import textwrap
from typing import Any

import boto3
import pytest

pytestmark = pytest.mark.s3

BUCKET = "user-ada-clients"


@pytest.fixture(scope="module")
def server(object_store: Any, storage: Any, start_server: Any) -> Any:
    key = object_store.key
    client = boto3.client(
        "s3",
        endpoint_url=object_store.url,
        aws_access_key_id=key.access_key_id,
        aws_secret_access_key=key.secret_access_key,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="given/x.csv", Body=b"a,b\n1,2\n3,4\n")
    client.close()
    storage.me["endpoint_url"] = object_store.url
    storage.me["bucket"] = BUCKET
    storage.me["keys"] = {"access_key_id": key.access_key_id, "secret_access_key": key.secret_access_key}
    storage.me["buckets"] = [{"name": BUCKET, "kind": "personal", "access": "write"}]
    return start_server({"HABARI_STORAGE_URL": storage.url, "JUPYTERHUB_API_TOKEN": "token-of-ada"})


CODE = {
    "boto3": """
        import boto3
        s3 = boto3.client("s3")
        s3.put_object(Bucket=bucket, Key="out/boto3.txt", Body=b"hello")
        assert s3.get_object(Bucket=bucket, Key="out/boto3.txt")["Body"].read() == b"hello"
        large = b"x" * (9 * 1024 * 1024)
        import io
        s3.upload_fileobj(io.BytesIO(large), bucket, "out/large")
        assert s3.head_object(Bucket=bucket, Key="out/large")["ContentLength"] == len(large)
    """,
    "pandas": """
        import pandas
        assert pandas.read_csv(f"s3://{bucket}/given/x.csv")["b"].tolist() == [2, 4]
        pandas.DataFrame({"a": [1, 2]}).to_csv(f"s3://{bucket}/out/pandas.csv", index=False)
        assert pandas.read_csv(f"s3://{bucket}/out/pandas.csv")["a"].tolist() == [1, 2]
        pandas.DataFrame({"a": [1, 2]}).to_parquet(f"s3://{bucket}/out/pandas.parquet")
        assert pandas.read_parquet(f"s3://{bucket}/out/pandas.parquet")["a"].tolist() == [1, 2]
    """,
    "s3fs": """
        import s3fs
        files = s3fs.S3FileSystem()
        with files.open(f"{bucket}/out/s3fs.txt", "w") as file:
            file.write("hello")
        assert files.cat(f"{bucket}/out/s3fs.txt") == b"hello"
        assert f"{bucket}/given/x.csv" in files.ls(f"{bucket}/given")
    """,
    "pyarrow": """
        import pyarrow, pyarrow.dataset, pyarrow.fs, pyarrow.parquet
        table = pyarrow.table({"a": [1, 2]})
        pyarrow.parquet.write_table(table, f"s3://{bucket}/out/pyarrow.parquet")
        assert pyarrow.parquet.read_table(f"s3://{bucket}/out/pyarrow.parquet") == table
        files, path = pyarrow.fs.FileSystem.from_uri(f"s3://{bucket}/out/pyarrow.txt")
        with files.open_output_stream(path) as file:
            file.write(b"hello")
        assert files.get_file_info(path).size == 5
        pyarrow.dataset.write_dataset(table, f"s3://{bucket}/out/dataset", format="parquet")
        assert pyarrow.dataset.dataset(f"s3://{bucket}/out/dataset").to_table() == table
    """,
    "polars": """
        import polars
        assert polars.read_csv(f"s3://{bucket}/given/x.csv")["b"].to_list() == [2, 4]
        polars.DataFrame({"a": [1, 2]}).write_parquet(f"s3://{bucket}/out/polars.parquet")
        assert polars.scan_parquet(f"s3://{bucket}/out/polars.parquet").collect()["a"].to_list() == [1, 2]
        polars.DataFrame({"a": [1, 2]}).lazy().sink_csv(f"s3://{bucket}/out/polars.csv")
        assert polars.scan_csv(f"s3://{bucket}/out/*.csv").collect().height >= 2
    """,
    "duckdb": """
        import duckdb
        assert duckdb.sql(f"select sum(b) from read_csv('s3://{bucket}/given/x.csv')").fetchone() == (6,)
        duckdb.sql(f"copy (select 7 as a) to 's3://{bucket}/out/duckdb.parquet'")
        with duckdb.connect() as other:
            assert other.sql(f"from 's3://{bucket}/out/duck*.parquet'").fetchall() == [(7,)]
            secrets = other.sql("from duckdb_secrets()").fetchall()
            assert len(secrets) == 1 and "key" not in str(secrets[0]), secrets
    """,
}


@pytest.mark.parametrize("client", CODE)
async def test_a_client_reads_and_writes_with_no_other_setting(client: str, server: Any) -> None:
    async with server.kernel() as kernel:
        code = f"import os\nbucket = os.environ['HABARI_BUCKET']\n{textwrap.dedent(CODE[client])}\nprint('worked')"
        assert "worked" in await kernel.run(code)
