"""What a hostile user runs in a kernel of their own; sent there as text by `scene.py`, never imported.

Every attack is a function that returns what it got. A test gives it what the attacker may at best know, and shows
by the attacker's own files, programs and sockets that the attack would have worked.
"""

# ruff: noqa: BLE001, PTH112, PTH123, PTH207 - any error is a refusal; paths are taken as they are

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import glob
import hashlib
import hmac
import http.client
import json
import os
import site
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import boto3
import zmq
from botocore import UNSIGNED, auth, awsrequest, exceptions
from botocore.config import Config

LIBC = ctypes.CDLL(None, use_errno=True)
READ_BYTES = 100_000


def attempt(work: Callable[..., Any], *arguments: Any) -> str:
    """Return the name of the error, or `got` and what was got."""
    try:
        return f"got {work(*arguments)!r}"[:READ_BYTES]
    except Exception as error:
        return type(error).__name__


# Files


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(READ_BYTES)


def write(path: str) -> str:
    with open(path, "a") as file:
        return file.write("")


def roots() -> list[str]:
    """Return every folder that may lead out of the sandbox."""
    found = ["", *glob.glob("/proc/[0-9]*/root")]
    found += [f"{each}{'/..' * 12}" for each in glob.glob("/proc/[0-9]*/cwd")]
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.path.isdir(link):
                found.append(f"{link}{'/..' * 12}")
    return found


def opened(paths: Iterable[str]) -> list[str]:
    """Return those of the files that can be read, over any root."""
    ways = roots()
    return [path for path in paths if any(attempt(read, way + path).startswith("got") for way in ways)]


def found(name: str) -> list[str]:
    """Return every file of that name that can be seen, the system's and Python's own folders left out."""
    result = []
    for folder, folders, files in os.walk("/"):
        folders[:] = [each for each in folders if each not in ("proc", "usr", "site-packages", "lib")]
        result += [str(Path(folder) / each) for each in files if each == name]
    return result


# Processes


def texts_of_processes() -> str:
    """Return the environments and arguments of all processes that show theirs."""
    names = [each for kind in ("environ", "cmdline") for each in glob.glob(f"/proc/[0-9]*/{kind}")]
    return "\n".join(attempt(read, name) for name in names)


def reached(pid: int) -> list[str]:
    """Return what can be done to a process."""
    ways = {
        "signal": lambda: os.kill(pid, 0),
        "pidfd": lambda: os.close(os.pidfd_open(pid)),
        "scheduling": lambda: os.sched_getaffinity(pid),
        "priority": lambda: os.getpriority(os.PRIO_PROCESS, pid),
        "trace": lambda: _checked(LIBC.ptrace(0x4206, pid, 0, 0)),
        "memory": lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)),
    }
    return [name for name, work in ways.items() if attempt(work).startswith("got")]


def child() -> int:
    """Start a process of one's own and return its id."""
    return subprocess.Popen(["sleep", "300"]).pid


def in_own_namespace(script: str) -> str:
    """Run a shell script as the root of a user namespace of one's own."""
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno())
    return result


# Code that other programs start


_PLANTED = """
import json, os, socket
def refused(work):
    try:
        work()
    except OSError as error:
        return os.strerror(error.errno) and __import__("errno").errorcode[error.errno]
    return ""
files = ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/usr/x", "/etc/x")
with open("/proc/self/status") as file:
    capabilities = [line.split()[1] for line in file if line.startswith(("CapEff", "CapPrm"))]
with open("/proc/self/cmdline") as file:
    arguments = file.read().split(chr(0))
found = {
    "arguments": arguments,
    "uid": os.getuid(),
    "capabilities": capabilities,
    "written": [each for each in files if not refused(lambda: os.close(os.open(each, os.O_WRONLY | os.O_CREAT)))],
    "listens": refused(lambda: socket.socket().bind(("127.0.0.1", PORT))),
}
with open(os.path.expanduser("~/starts"), "a") as file:
    print(json.dumps(found), file=file)
"""


def plant(port: int) -> None:
    """Have code run at each start of Python that reads one's packages, and open one's home to everybody for it."""
    packages = Path(site.getusersitepackages())
    packages.mkdir(parents=True, exist_ok=True)
    (packages / "planted.py").write_text(_PLANTED.replace("PORT", str(port)))
    (packages / "planted.pth").write_text("import planted\n")
    for folder in (packages, *packages.parents):
        if folder.is_relative_to(Path.home()):
            folder.chmod(0o755)
    for file in packages.iterdir():
        file.chmod(0o644)
    starts = Path.home() / "starts"
    starts.touch()
    starts.chmod(0o666)


# Sockets


def listeners() -> dict[int, int]:
    """Return the TCP ports on which somebody listens, and the owner of each."""
    result = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                result[int(fields[1].rpartition(":")[2], 16)] = int(fields[7])
    return result


def request(port: int, method: str, path: str, headers: dict[str, str] | None = None, body: str = "") -> list[Any]:
    """Return status and content of an answer over HTTP, or the name of the error; the path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.putrequest(method, path, skip_host="Host" in (headers or {}), skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode())
        answer = connection.getresponse()
        return [answer.status, answer.read(READ_BYTES).decode(errors="replace")]
    except Exception as error:
        return [type(error).__name__, ""]
    finally:
        connection.close()


def basic(password: str) -> str:
    """Return a header for a name and password."""
    return f"Basic {base64.b64encode(password.encode()).decode()}"


def forged(algorithm: str) -> str:
    """Return a signed token as a store without a key would take it."""
    parts = ({"alg": algorithm, "typ": "JWT"}, {"exp": int(time.time()) + 600})
    text = b".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in parts)
    mac = hmac.digest(b"", text, hashlib.sha256) if algorithm == "HS256" else b""
    return (text + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


def speaks_grpc(port: int, *, tls: bool) -> bool:
    """Tell whether a port answers the beginning of HTTP/2 to somebody without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            if tls:
                connection = stack.enter_context(context.wrap_socket(connection))
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            return bool(connection.recv(64))
    except OSError:
        return False


def own_grpc() -> int:
    """Answer the beginning of HTTP/2 as a server would, once, and return the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(64)
            connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))

    threading.Thread(target=answer, daemon=True).start()
    return int(listener.getsockname()[1])


def attach(port: int) -> str:
    """Return what a port answers to a debugger's first words."""
    words = json.dumps({"seq": 1, "type": "request", "command": "initialize", "arguments": {"adapterID": "x"}})
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.settimeout(2)
        connection.sendall(f"Content-Length: {len(words)}\r\n\r\n{words}".encode())
        while chunk := connection.recv(65536):
            answer += chunk
            if b'"command"' in answer:
                break
    return answer.decode(errors="replace")


def own_debugger() -> int:
    """Start a program of one's own that waits for a debugger, and return its port."""
    code = "import debugpy, time; print(debugpy.listen(('127.0.0.1', 0))[1], flush=True); time.sleep(20)"
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert program.stdout
    return int(program.stdout.readline())


def overhear(addresses: list[str], seconds: float = 3.0) -> str:
    """Return what ZMQ publishers at these addresses say within some seconds."""
    heard = []
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.linger = 0
        subscriber.subscribe(b"")
        for address in addresses:
            with contextlib.suppress(zmq.ZMQError):
                subscriber.connect(address)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if subscriber.poll(int(left * 1000)):
                heard += subscriber.recv_multipart()
    return b"\n".join(heard).decode(errors="replace")


def published() -> str:
    """Publish on a port of one's own and return what `overhear` hears there."""
    with zmq.Context() as context, context.socket(zmq.PUB) as publisher:
        publisher.linger = 0
        address = f"tcp://127.0.0.1:{publisher.bind_to_random_port('tcp://127.0.0.1')}"
        heard: list[str] = []
        thread = threading.Thread(target=lambda: heard.append(overhear([address], 1.0)))
        thread.start()
        while thread.is_alive():
            publisher.send(b"control")
            time.sleep(0.01)
        return heard[0]


def unix_sockets() -> list[str]:
    """Return the names of all Unix sockets; an abstract one begins with `@`."""
    lines = [line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return sorted({fields[7] for fields in lines if len(fields) > 7})


def connects(name: str) -> str:
    """Return what comes of connecting to a Unix socket, over any root."""
    ways = [f"\0{name[1:]}"] if name.startswith("@") else [way + name for way in roots()]
    tried = set()
    for way in ways:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            with socket.socket(socket.AF_UNIX, kind) as each:
                tried.add(attempt(each.connect, way))
    return "got" if any(each.startswith("got") for each in tried) else min(tried)


def listens(port: int, *, protocol: int = 0, family: int = socket.AF_INET) -> str:
    """Return what comes of listening on a port: the name of the error, or `got`."""
    try:
        with socket.socket(family, socket.SOCK_STREAM, protocol) as each:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind(("::" if family == socket.AF_INET6 else "127.0.0.1", port))
            each.listen()
            return "got"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)


# Object store


def s3(service: str = "s3", *, key: list[str] | None = None, anonymous: bool = False) -> Any:
    """Return a client with one's own key, another one, or none."""
    options: dict[str, Any] = {"retries": {"max_attempts": 0}, "s3": {"addressing_style": "path"}}
    if anonymous:
        options["signature_version"] = UNSIGNED
    keys = {"aws_access_key_id": key[0], "aws_secret_access_key": key[1]} if key else {}
    endpoint = os.environ["S3_ENDPOINT_URL"]
    return boto3.client(service, endpoint_url=endpoint, region_name="us-east-1", config=Config(**options), **keys)


def asked(client: Any, calls: Iterable[tuple[str, dict[str, Any]]]) -> list[list[Any]]:
    """Return for each call its name, the status of the answer, and what it holds."""
    result = []
    for name, arguments in calls:
        try:
            answer = getattr(client, name)(**arguments)
            if "Body" in answer:
                answer["Body"] = answer["Body"].read().decode()
            refused = [each["Code"] for each in answer.get("Errors", [])]
            status = 403 if "AccessDenied" in refused else answer["ResponseMetadata"]["HTTPStatusCode"]
            result.append([name, status, str(answer)])
        except exceptions.ClientError as error:
            result.append([name, error.response["ResponseMetadata"]["HTTPStatusCode"], str(error)])
    return result


def signed(path: str) -> list[Any]:
    """Return the store's answer to a GET that is signed with one's own key; the path is signed and sent as it is."""
    endpoint = os.environ["S3_ENDPOINT_URL"]
    query = awsrequest.AWSRequest("GET", endpoint + path)
    auth.S3SigV4Auth(boto3.Session().get_credentials(), "s3", "us-east-1").add_auth(query)
    return request(int(endpoint.rpartition(":")[2]), "GET", path, dict(query.headers))
