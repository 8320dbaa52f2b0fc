"""The home's side of a copy to or from a bucket: files are streamed, written under a hidden name, and then named.

Everything that blocks is called in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import pathlib
import secrets
import shutil
import stat
from collections.abc import AsyncIterator, Iterator

from habari.core import errors
from habari.server import models, s3_multipart, s3_xml, unfinished

CHUNK_BYTES = 1024 * 1024
_CHECKPOINTS = ".ipynb_checkpoints"
_MAX_NAME_BYTES = 255
SPOOL_NAME = r"\.~upload-[0-9a-f]{16}"


@dataclasses.dataclass
class DiskSide:
    """A file or folder on disk.

    Attributes:
        base: Where it is or goes.
        is_folder: Whether it is a folder.
        path: Its path in the tree, for messages.
        entries: Each file below it, with `base` and a relative name as its key; an empty folder ends in a slash.
    """

    root: str
    is_folder: bool
    path: str
    entries: list[s3_xml.Entry] = dataclasses.field(default_factory=list)

    @property
    def base(self) -> str:
        """What the keys of `entries` start with."""
        return f"{self.root}/" if self.is_folder else self.root

    def prepare(self, names: list[str]) -> None:
        """Make the folders for files of these relative names.

        Raises:
            InvalidInputError: If a name cannot be that of a file; nothing is made then.
        """
        check_names(names, self.path)
        if not self.is_folder:
            return
        with told(self.path):
            pathlib.Path(self.root).mkdir()
            for name in names:
                pathlib.Path(self.base, name.rpartition("/")[0]).mkdir(parents=True, exist_ok=True)

    async def write(self, name: str, chunks: AsyncIterator[bytes], *, expected: int) -> None:
        """Write one file, which is seen only when it is whole.

        Raises:
            ConflictError: If a file of that name is there.
            UnavailableError: If the bytes end early or the disk takes no more.
        """
        target = pathlib.Path(self.base + name)
        with told(self.path):
            spool = Spool(target)  # here and not in a thread: a cancelled await would leave the file behind
            try:
                async for chunk in chunks:
                    await asyncio.to_thread(spool.write, chunk)
                _check_size(self.path, spool.size, expected)
                await asyncio.to_thread(spool.publish, replace=False)
            finally:
                await asyncio.to_thread(spool.discard)

    def sizes(self, names: list[str]) -> dict[str, int]:
        """Return the size of each of these files that is there; 0 for a folder."""
        found = {}
        for name in names:
            with contextlib.suppress(OSError):
                status = pathlib.Path(self.base + name).stat()
                found[name] = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        return found

    async def chunks(self, entry: s3_xml.Entry) -> AsyncIterator[bytes]:
        """Yield a file's bytes.

        Raises:
            ConflictError: If it changes meanwhile.
        """
        if entry.key.endswith("/"):
            return
        with told(self.path):
            file = pathlib.Path(entry.key).open("rb")  # noqa: ASYNC230, SIM115 - a cancelled thread would leave it open
            with file:
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    yield chunk
                status = await asyncio.to_thread(os.fstat, file.fileno())
        if _version(status) != entry.etag:
            msg = f"{entry.key!r} changed while it was read; try again."
            raise errors.ConflictError(msg)

    def delete_unchanged(self) -> list[str]:
        """Delete the files that are as they were listed, then the folders that are empty.

        Returns:
            What stays.
        """
        left = []
        with told(self.path):
            for entry in self.entries:
                path = pathlib.Path(entry.key)
                if entry.key.endswith("/"):
                    continue
                try:
                    if _version(path.stat()) == entry.etag:
                        path.unlink()
                    else:
                        left.append(entry.key)
                except FileNotFoundError:
                    continue
            if self.is_folder:
                for folder, _, _ in os.walk(self.root, topdown=False):
                    if pathlib.Path(folder).name == _CHECKPOINTS:
                        shutil.rmtree(folder)
                        continue
                    with contextlib.suppress(OSError):
                        pathlib.Path(folder).rmdir()
                if not left and pathlib.Path(self.root).exists():
                    left.append(self.root)
        return left


class Spool:
    """A file that is being written under a hidden name beside its target.

    Args:
        target: The file's name once it is whole; a link is followed.
        mode: Permissions of a new file, which the process's mask narrows.
    """

    def __init__(self, target: pathlib.Path, mode: int = 0o666) -> None:
        """Open the hidden file."""
        self._target = pathlib.Path(os.path.realpath(target)) if target.is_symlink() else target
        name = f".~upload-{secrets.token_hex(8)}"
        self._path = self._target.parent / name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._noted = unfinished.HiddenFile(f"{os.path.realpath(self._path.parent)}/{name}")
        unfinished.notes.begin(self._noted)
        try:
            self._file = os.fdopen(os.open(self._path, flags, mode), "wb", buffering=0)
        except OSError:
            unfinished.notes.end(self._noted)
            raise
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes, all of them."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self.size += len(data)

    def publish(self, *, replace: bool) -> None:
        """Let the file be seen under its name, on disk for good.

        Args:
            replace: Take the place of a file of that name, and its permissions.

        Raises:
            FileExistsError: If there is one and it is not to be replaced.
        """
        os.fsync(self._file.fileno())
        self._file.close()
        if replace:
            with contextlib.suppress(FileNotFoundError):
                self._path.chmod(stat.S_IMODE(self._target.stat().st_mode))
            self._path.replace(self._target)
        else:
            self._name_once()
        unfinished.notes.end(self._noted)
        folder = os.open(self._target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _name_once(self) -> None:
        try:
            os.link(self._path, self._target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: the name is looked at first, which leaves a moment
            if self._target.exists():
                raise FileExistsError(errno.EEXIST, "File exists", str(self._target)) from None
            self._path.rename(self._target)
        else:
            self._path.unlink()

    def discard(self) -> None:
        """Remove the hidden file if it was not published."""
        self._file.close()
        self._path.unlink(missing_ok=True)
        unfinished.notes.end(self._noted)


def source(root: str, path: str) -> DiskSide:
    """Return a file or folder on disk with all that is in it.

    Raises:
        NotFoundError: If it is not there.
        InvalidInputError: If it holds something that is neither file nor folder, or a link to a folder.
    """
    here = pathlib.Path(root)
    if not here.exists():
        msg = f"No such file or folder: {path!r}; look at the folder above it again."
        raise errors.NotFoundError(msg)
    if not here.is_dir():
        return DiskSide(root, is_folder=False, path=path, entries=[_entry(root, path)])
    side = DiskSide(root, is_folder=True, path=path)
    with told(path):
        for folder, folders, names in os.walk(root, onerror=_raise):
            if _CHECKPOINTS in folders:
                folders.remove(_CHECKPOINTS)
            for name in folders:
                if (pathlib.Path(folder) / name).is_symlink():
                    raise _no_file(name, path)
            side.entries += [_entry(f"{folder}/{name}", path) for name in names]
            if not folders and not names:
                side.entries.append(s3_xml.Entry(f"{folder}/", 0, "", ""))
    return side


def copy_inside(source_path: str, target_path: str, path: str) -> None:
    """Copy a file, or a folder with its links, to a name that is free.

    Raises:
        NotFoundError: If it is not there.
        ConflictError: If the name is taken.
    """
    here, there = pathlib.Path(source_path), pathlib.Path(target_path)
    if not here.exists():
        msg = f"No such file or folder: {path!r}; look at the folder above it again."
        raise errors.NotFoundError(msg)
    with told(path):
        if here.is_dir():
            shutil.copytree(here, there, symlinks=True, ignore=shutil.ignore_patterns(".~upload-*"))
            return
        spool = Spool(there)
        try:
            with here.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    spool.write(chunk)
            spool.publish(replace=False)
        finally:
            spool.discard()
        shutil.copystat(here, there)


def check_names(names: list[str], path: str) -> None:
    """Refuse keys that cannot be files and folders on disk, before anything is written.

    Raises:
        InvalidInputError: Naming the first of them.
    """
    files = {name for name in names if not name.endswith("/")}
    folders: set[str] = set()
    for name in names:
        *parents, _ = name.split("/")
        for depth in range(len(parents)):
            folders.add("/".join(parents[: depth + 1]))
    for name in names:
        segments = (name.removesuffix("/") if name.endswith("/") else name).split("/") if name else []
        bad = any(
            each in {"", ".", ".."} or "\0" in each or len(os.fsencode(each)) > _MAX_NAME_BYTES for each in segments
        )
        if bad or (name and name in folders and name in files):
            msg = f"{path!r} cannot be written to the home: the key {name!r} cannot be a file there. Rename it first."
            raise errors.InvalidInputError(msg)


async def pour(chunks: AsyncIterator[bytes], writer: s3_multipart.Writer, *, expected: int) -> str:
    """Write all bytes and return the object's ETag; nothing is left behind on failure.

    Raises:
        UnavailableError: If fewer or more bytes came than expected.
    """
    try:
        async for chunk in chunks:
            await writer.write(chunk)
        _check_size("the file", writer.size, expected)
        return (await writer.finish()).etag
    except BaseException:
        await writer.abort()
        raise


def content_type(os_path: str) -> str:
    """Return the Content-Type to store for a file on disk; a folder's marker has one of its own."""
    return "application/x-directory" if os_path.endswith("/") else models.content_type(os_path.rpartition("/")[2])


def _entry(os_path: str, path: str) -> s3_xml.Entry:
    try:
        status = pathlib.Path(os_path).stat()
    except OSError as exc:
        raise _no_file(os_path.rpartition("/")[2], path) from exc
    if not stat.S_ISREG(status.st_mode):
        raise _no_file(os_path.rpartition("/")[2], path)
    return s3_xml.Entry(os_path, status.st_size, _version(status), "")


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def _no_file(name: str, path: str) -> errors.InvalidInputError:
    msg = f"{path!r} cannot go to a bucket: {name!r} is a broken link, a link to a folder or no file. Remove it first."
    return errors.InvalidInputError(msg)


def _check_size(path: str, size: int, expected: int) -> None:
    if size != expected:
        msg = f"{path!r} arrived with {size:,} of {expected:,} bytes; nothing was written. Try again."
        raise errors.UnavailableError(msg)


def _raise(error: OSError) -> None:
    raise error


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """Tell what the disk refuses."""
    try:
        yield
    except FileExistsError as exc:
        msg = f"{path!r} was not written: a file of this name is there already; choose another name."
        raise errors.ConflictError(msg) from exc
    except PermissionError as exc:
        msg = f"{path!r} cannot be read or written: permission denied for {pathlib.Path(str(exc.filename)).name!r}."
        raise errors.NotPermittedError(msg) from exc
    except OSError as exc:
        full = exc.errno in {errno.ENOSPC, errno.EDQUOT}
        why = "the home is full; delete something" if full else f"the disk said {exc.strerror}"
        msg = f"{path!r} was not written: {why}. Then try again."
        raise errors.UnavailableError(msg) from exc
