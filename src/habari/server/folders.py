"""Everything below a prefix of a bucket: found, deleted, and swept away where a store keeps empty folders."""

from __future__ import annotations

import asyncio

from habari.core import errors
from habari.server import bucket, s3_xml


async def entries_below(files: bucket.BucketFiles, prefix: str) -> list[s3_xml.Entry]:
    """Return every object whose key starts with a prefix, the folder's marker included."""
    return [entry async for page in files.client.list(files.name, prefix, delimiter="") for entry in page.objects]


async def delete_entries(files: bucket.BucketFiles, entries: list[s3_xml.Entry], path: str) -> None:
    """Delete objects, a thousand a request.

    Raises:
        UnavailableError: If some stay; the message says how many.
    """
    batches = [[entry.key for entry in entries[start : start + 1000]] for start in range(0, len(entries), 1000)]
    gate = asyncio.Semaphore(4)

    async def one(keys: list[str]) -> list[tuple[str, str]]:
        async with gate:
            return await files.client.delete_many(files.name, keys)

    results = await asyncio.gather(*(one(keys) for keys in batches), return_exceptions=True)
    left = [each for result in results if isinstance(result, list) for each in result]
    broken = [result for result in results if isinstance(result, BaseException)]
    if not left and not broken:
        return
    if broken and len(broken) == len(batches):
        raise broken[0]
    why = f"{left[0][0]!r}: {left[0][1]}" if left else str(broken[0])
    msg = f"{path!r} was deleted in part only: some of its {len(entries):,} objects stay ({why}). Delete it again."
    raise errors.UnavailableError(msg)


async def sweep(files: bucket.BucketFiles, prefix: str, keys: list[str]) -> None:
    """Delete the empty folders that a store like a file system keeps after the last object in them is gone."""
    if not files.client.is_file_system:
        return
    folders = {prefix}
    for key in keys:
        end = key.rfind("/", len(prefix))
        while end > 0 and (folder := key[: end + 1]) not in folders:
            folders.add(folder)
            end = key.rfind("/", len(prefix), end)
    deepest_first = sorted(folders, key=lambda folder: -folder.count("/"))
    for start in range(0, len(deepest_first), 1000):
        await files.client.delete_many(files.name, deepest_first[start : start + 1000])
