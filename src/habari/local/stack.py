"""The whole platform on one machine: which programs run, with which settings; called by the command line."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import aiohttp
from cryptography import fernet

from habari.core import config, errors
from habari.local import folder, objectstore, parts, ports, proxy, secretfiles, spawner

_PORTS = ("hub", "storage", "proxy-api")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_POLL_S = 0.05
_DISK_CHECK_S = 30.0


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line was given.

    Attributes:
        dir: The data folder.
        config: The declaration; None takes `habari.yaml` in the data folder, or the defaults.
        port: Overrides `listen.port`.
        notebook_environment: The virtual environment that users' servers run in.
        behind_proxy: Another proxy in front speaks TLS.
        isolation: Run each user's server in a sandbox; without it one user only is let in.
    """

    dir: Path
    config: Path | None = None
    port: int | None = None
    notebook_environment: Path = dataclasses.field(default_factory=lambda: Path(f"{sys.prefix}-notebook"))
    behind_proxy: bool = False
    isolation: bool = True


@dataclasses.dataclass(frozen=True)
class Stack:
    """The platform's parts and where they meet; made by `prepare`."""

    data: folder.Folder
    tenant: config.Tenant
    options: Options
    ports: Mapping[str, int]
    store: objectstore.Store

    @property
    def url(self) -> str:
        """Return the address that people type."""
        return public_url(self.tenant.listen)


def load(options: Options) -> config.Tenant:
    """Return the declaration with the command line's overrides.

    Raises:
        ConfigError: If it cannot be read, is wrong, or would listen to the world without TLS.
    """
    file = options.config or options.dir.expanduser() / "habari.yaml"
    text = ""
    if options.config or file.exists():
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            msg = f"The declaration {file} cannot be read: {reason}. Mend it, or name another with --config."
            raise errors.ConfigError(msg) from error
    tenant = config.parse(text, source=str(file))
    listen = tenant.listen
    if options.port is not None:
        listen = listen.model_copy(update={"port": options.port})
    if listen.host not in _LOOPBACK and not listen.tls and not options.behind_proxy:
        msg = (
            f"listen.host is {listen.host}: passwords would cross the network in clear. "
            "Set listen.tls to a certificate and its key, or pass --behind-proxy if a proxy in front speaks TLS."
        )
        raise errors.ConfigError(msg)
    return tenant.model_copy(update={"listen": listen})


def public_url(listen: config.Listen) -> str:
    """Return the address that people type, without a slash at its end."""
    if listen.public_url:
        return listen.public_url.rstrip("/")
    scheme, usual = ("https", 443) if listen.tls else ("http", 80)
    host = "localhost" if listen.host in _LOOPBACK else listen.host
    return f"{scheme}://{host}" + ("" if listen.port == usual else f":{listen.port}")


def prepare(options: Options, tenant: config.Tenant, data: folder.Folder) -> Stack:
    """Check what the platform needs and write the settings of its parts; nothing is started.

    Raises:
        ConfigError: If a port is taken, the notebook environment is missing, or sandboxes are not allowed.
    """
    listen = tenant.listen
    if listen.port == 0:
        listen = listen.model_copy(update=ports.choose(data, ["port"]))
        tenant = tenant.model_copy(update={"listen": listen})
    ports.check_free(listen.host, listen.port)
    if not (options.notebook_environment / "bin" / "jupyterhub-singleuser").exists():
        msg = (
            f"The notebook environment {options.notebook_environment} is missing or not complete. "
            "Make it with: make setup, or name another with --notebook-environment."
        )
        raise errors.ConfigError(msg)
    if options.isolation:
        spawner.check_isolation(options.notebook_environment)
    # One call, so that no two parts get the same port.
    chosen = ports.choose(data, [*_PORTS, *objectstore.PORTS], offsets=(0, objectstore.GRPC_OFFSET))
    store = objectstore.Store(
        folder=data.path / "objects",
        secrets=data.path / "secrets",
        ports={name: chosen[name] for name in objectstore.PORTS},
        reserve_gib=tenant.store.reserve_gib,
    )
    store.prepare()
    _make_secrets(data)
    effective = tenant.model_dump_json(exclude_none=True).encode()
    secretfiles.write(data.path / "run" / "habari.yaml", effective)
    return Stack(data, tenant, options, chosen, store)


async def run(stack: Stack, say: Callable[[str], None], announce: Callable[[], None]) -> None:
    """Run the platform until SIGINT or SIGTERM, then stop all of it.

    Args:
        stack: What `prepare` returned.
        say: Called with one line for people at each event.
        announce: Called once, when everybody can sign in.

    Raises:
        ConfigError: If a part does not start.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)

    def changed(states: Mapping[str, parts.State]) -> None:
        listed = {name: dataclasses.asdict(state) for name, state in states.items()}
        stack.data.write_json("status.json", {"url": stack.url, "parts": listed})

    supervisor = parts.Supervisor(say, changed)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        listed = _parts(stack, session)
        main = asyncio.create_task(_serve(supervisor, stack, listed, say, announce), name="platform")
        stop = asyncio.create_task(stopping.wait(), name="stop")
        try:
            await asyncio.wait({main, stop}, return_when=asyncio.FIRST_COMPLETED)
            if main.done():
                main.result()
            say("Stopping …")
        finally:
            main.cancel()
            stop.cancel()
            with contextlib.suppress(asyncio.CancelledError, errors.ConfigError, BaseExceptionGroup):
                await main
            await spawner.stop_servers(stack.data.path)
            for part in reversed(listed):
                await supervisor.stop(part.name)
            changed({})


async def _serve(
    supervisor: parts.Supervisor,
    stack: Stack,
    listed: list[parts.Part],
    say: Callable[[str], None],
    announce: Callable[[], None],
) -> None:
    async def start(part: parts.Part) -> None:
        begun = asyncio.get_running_loop().time()
        await supervisor.start(part)
        say(f"  {part.name:<16} ready after {asyncio.get_running_loop().time() - begun:.1f} s")

    try:
        async with asyncio.TaskGroup() as starting:
            for part in listed:
                starting.create_task(start(part), name=f"start {part.name}")
    except* errors.ConfigError as group:
        raise group.exceptions[0] from None
    announce()
    if stack.tenant.servers.idle_timeout_s:
        culler = _culler(stack)
        await supervisor.start(culler)
        listed.append(culler)
    async with asyncio.TaskGroup() as keeping:
        keeping.create_task(_guard_disk(stack.store, say), name="guard disk")
        for part in listed:
            keeping.create_task(supervisor.keep(part), name=f"keep {part.name}")


async def _guard_disk(store: objectstore.Store, say: Callable[[str], None]) -> None:
    open_before = True
    while True:
        try:
            takes_data = await store.guard_disk()
        except errors.UnavailableError as error:
            say(f"The free disk could not be guarded: {error}")
        else:
            if takes_data != open_before:
                free = "is short: buckets take no more data" if open_before else "is there again: buckets take data"
                say(f"Free disk {free}. Folder: {store.folder}")
            open_before = takes_data
        await asyncio.sleep(_DISK_CHECK_S)


def _make_secrets(data: folder.Folder) -> None:
    def shared(name: str, *holders: str, make: Callable[[], str] = lambda: secrets.token_hex(32)) -> None:
        value = secretfiles.ensure(data.secret_file(holders[0], name), make)
        for holder in holders[1:]:
            secretfiles.write(data.secret_file(holder, name), value.encode())

    shared("launch_token", "hub", "storage")
    shared("service_token", "hub", "storage")
    shared("encryption_keys", "storage", make=lambda: fernet.Fernet.generate_key().decode())
    for name in ("cookie_secret", "crypt_key", "culler_token", "proxy_password"):
        shared(name, "hub")


def _parts(stack: Stack, session: aiohttp.ClientSession) -> list[parts.Part]:
    data, listen, chosen = stack.data, stack.tenant.listen, stack.ports
    hub_url = f"http://127.0.0.1:{chosen['hub']}"
    storage_url = f"http://127.0.0.1:{chosen['storage']}/services/storage/"
    common = _environment(stack)
    python = [sys.executable, "-m"]
    static = proxy.write_static(data, listen, api_port=chosen["proxy-api"], behind_proxy=stack.options.behind_proxy)

    def part(
        name: str, argv: Sequence[str], env: Mapping[str, str], ready: Callable[[], Awaitable[None]]
    ) -> parts.Part:
        return parts.Part(name, argv, env, log(name), ready, cwd=data.path)

    def log(name: str) -> Path:
        return data.path / "logs" / f"{name.replace(' ', '-')}.log"

    store = stack.store
    return [
        parts.Part(
            "object store",
            store.argv,
            store.environment(),
            log("object store"),
            store.ready,
            cwd=store.cwd,
            before=store.clean,
        ),
        part("proxy", ["traefik", f"--configfile={static}"], common, lambda: _listens(listen)),
        part(
            "storage service",
            [*python, "habari.service"],
            common
            | {
                "HABARI_SECRETS": str(data.path / "secrets" / "storage"),
                "HABARI_DATABASE_URL": f"sqlite:///{data.path / 'storage' / 'storage.sqlite'}",
                "HABARI_STORE_URL": store.url,
                "HABARI_LISTEN": f"127.0.0.1:{chosen['storage']}",
                "JUPYTERHUB_API_URL": f"{hub_url}/hub/api",
            },
            lambda: _answers(session, f"{storage_url}api/v1/health"),
        ),
        part(
            "hub",
            [*python, "jupyterhub", "-f", str(Path(__file__).with_name("jupyterhub_config.py"))],
            common
            | {
                "HABARI_SECRETS": str(data.path / "secrets" / "hub"),
                "HABARI_STORAGE_URL": storage_url,
                "HABARI_HUB_PORT": str(chosen["hub"]),
                "HABARI_PROXY_API_PORT": str(chosen["proxy-api"]),
                "HABARI_PUBLIC_URL": stack.url,
                "HABARI_NOTEBOOK_ENVIRONMENT": str(stack.options.notebook_environment),
                "HABARI_ISOLATION": "1" if stack.options.isolation else "0",
            },
            lambda: _answers(session, f"{_local_url(listen)}/hub/health", host=stack.url.split("//", 1)[1]),
        ),
    ]


def _local_url(listen: config.Listen) -> str:
    host = "127.0.0.1" if listen.host in ("0.0.0.0", "localhost") else listen.host  # noqa: S104 - compared, not bound
    return f"{'https' if listen.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{listen.port}"


def _culler(stack: Stack) -> parts.Part:
    async def ready() -> None:
        """Return at once: it has nothing to answer."""

    limit_s = stack.tenant.servers.idle_timeout_s
    hub_api = f"http://127.0.0.1:{stack.ports['hub']}/hub/api"
    token = stack.data.secret_file("hub", "culler_token").read_text().strip()
    flags = [f"--url={hub_api}", f"--timeout={limit_s}", f"--cull-every={max(1, min(300, limit_s // 2))}"]
    return parts.Part(
        "idle culler",
        [sys.executable, "-m", "jupyterhub_idle_culler", *flags],
        _environment(stack) | {"JUPYTERHUB_API_TOKEN": token},
        stack.data.path / "logs" / "idle-culler.log",
        ready,
        cwd=stack.data.path,
    )


def _environment(stack: Stack) -> dict[str, str]:
    """Return what every part written in Python finds in its environment; no secret is among it."""
    base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return base | {
        "PATH": f"{sys.prefix}/bin{os.pathsep}{base.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "HABARI_CONFIG": str(stack.data.path / "run" / "habari.yaml"),
        "HABARI_DIR": str(stack.data.path),
    }


async def _answers(session: aiohttp.ClientSession, url: str, *, host: str | None = None) -> None:
    """Return when a URL answers 200; `host` is the name that the proxy routes by."""
    while True:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            # The certificate is checked by browsers against the name people type, which this address is not.
            async with session.get(url, headers={"Host": host} if host else None, ssl=False) as response:
                if response.status == 200:  # noqa: PLR2004 - HTTP OK
                    return
        await asyncio.sleep(_POLL_S)


async def _listens(listen: config.Listen) -> None:
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(listen.host, listen.port)
            writer.close()
            return
        await asyncio.sleep(_POLL_S)
