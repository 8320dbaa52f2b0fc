"""The command line: `habari up`, `status`, `down`, `user`, `lab`. Faults end in one sentence and exit status 2."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich import console as rich_console
from rich import table

from habari.core import errors

if TYPE_CHECKING:
    from habari.local import plan

_DEFAULT_DIR = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "habari"
_STOP_TIMEOUT_S = 60.0
_OLD_KERNEL = (
    "  This Linux is older than 6.7: while a part of the platform is started again, a user's program could take its\n"
    "  port and be shown what is meant for it. Let in only people you trust, or use a newer kernel."
)
_NOT_RUNNING = 3
"""Exit status of `status` when nothing runs: https://refspecs.linuxbase.org/LSB_5.0.0/LSB-Core-generic/."""

app = typer.Typer(help="A data-science platform for a team.", no_args_is_help=True, add_completion=False)
user_app = typer.Typer(help="Local accounts: who may sign in.", no_args_is_help=True)
app.add_typer(user_app, name="user")
console = rich_console.Console(highlight=False, soft_wrap=True)

Dir = Annotated[Path, typer.Option("--dir", help="Folder that keeps everything.", show_default="~/.local/share/habari")]


def main() -> None:
    """Run the command line."""
    os.umask(0o077)
    try:
        app()
    except errors.HabariError as error:
        _fail(str(error))


@app.command()
def up(  # noqa: PLR0913 - one parameter an option
    *,
    config: Annotated[
        Path | None, typer.Option(help="The declaration; by default DIR/habari.yaml if it exists.")
    ] = None,
    directory: Dir = _DEFAULT_DIR,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy in front of Habari speaks TLS.")
    ] = False,
    no_isolation: Annotated[
        bool, typer.Option("--no-isolation", help="Run servers without a sandbox; lets only one user in.")
    ] = False,
    notebook_environment: Annotated[
        Path | None, typer.Option(help="Virtual environment of the users' servers; by default the one beside this one.")
    ] = None,
) -> None:
    """Run the platform until Ctrl-C."""
    from habari.local import folder, inside, plan, stack  # noqa: PLC0415 - not installed with every extra

    options = plan.Options(
        dir=directory,
        config=config,
        port=port,
        behind_proxy=behind_proxy,
        isolation=not no_isolation,
        **({"notebook_environment": notebook_environment.absolute()} if notebook_environment else {}),
    )
    tenant = plan.load(options)
    data = folder.Folder.prepare(options.dir)
    lock = data.lock()
    try:
        prepared = plan.prepare(options, tenant, data)
        console.print(f"Starting Habari in {data.path}")
        if options.isolation and not inside.keeps_ports():
            console.print(_OLD_KERNEL)
        asyncio.run(stack.run(prepared, console.print, lambda: _announce(prepared)))
    finally:
        lock.release()
    console.print("Stopped.")


@app.command()
def status(*, directory: Dir = _DEFAULT_DIR) -> None:
    """Show what runs; exit status 3 if nothing does."""
    from habari.local import folder  # noqa: PLC0415 - not installed with every extra

    data = folder.Folder(directory.expanduser().absolute())
    if data.owner() is None:
        console.print(f"Habari does not run on {data.path}.")
        raise typer.Exit(_NOT_RUNNING)
    kept = data.read_json("status.json")
    console.print(f"Habari runs at {kept.get('url', '?')} on {data.path}.")
    rows = table.Table("part", "state", "process", "restarts", box=None)
    for name, state in kept.get("parts", {}).items():
        rows.add_row(name, "ready" if state["ready"] else "starting", str(state["pid"] or "-"), str(state["restarts"]))
    console.print(rows)


@app.command()
def down(*, directory: Dir = _DEFAULT_DIR) -> None:
    """Stop the platform that runs on a folder, and wait until it is gone."""
    from habari.local import folder, servers  # noqa: PLC0415 - not installed with every extra

    data = folder.Folder(directory.expanduser().absolute())
    owner = data.owner()
    if owner is None:
        console.print(f"Habari does not run on {data.path}.")
        return
    os.kill(owner.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while servers.alive(owner):
        if time.monotonic() > deadline:
            _fail(f"Habari on {data.path} (process {owner.pid}) did not stop within {_STOP_TIMEOUT_S:.0f} seconds.")
        time.sleep(0.1)
    console.print("Stopped.")


@user_app.command("add")
def user_add(
    name: str,
    *,
    admin: Annotated[bool, typer.Option(help="Make an administrator.")] = False,
    directory: Dir = _DEFAULT_DIR,
) -> None:
    """Make an account and show its first password, once."""
    from habari.local import accounts  # noqa: PLC0415 - not installed with every extra

    password = accounts.add(_accounts_file(directory), name, admin=admin)
    console.print(f"{name} may sign in with the password {password}")
    console.print("It is shown only now; its owner changes it at first sign-in.")


@user_app.command("list")
def user_list(*, directory: Dir = _DEFAULT_DIR) -> None:
    """List the accounts."""
    from habari.local import accounts  # noqa: PLC0415 - not installed with every extra

    rows = table.Table("name", "administrator", "first password", box=None)
    for each in accounts.list_all(_accounts_file(directory)):
        rows.add_row(each["name"], "yes" if each["admin"] else "", "not changed yet" if each["must_change"] else "")
    console.print(rows)


@user_app.command("password")
def user_password(name: str, *, directory: Dir = _DEFAULT_DIR) -> None:
    """Give an account a new first password, and show it once."""
    from habari.local import accounts  # noqa: PLC0415 - not installed with every extra

    console.print(f"{name} may sign in with the password {accounts.reset_password(_accounts_file(directory), name)}")


@user_app.command("remove")
def user_remove(name: str, *, directory: Dir = _DEFAULT_DIR) -> None:
    """Remove an account; its home and its bucket stay."""
    from habari.local import accounts  # noqa: PLC0415 - not installed with every extra

    accounts.remove(_accounts_file(directory), name)
    console.print(f"{name} may not sign in any more. The home and the bucket stay.")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    *,
    bucket: Annotated[list[str] | None, typer.Option(help="A bucket to show; may be repeated. By default all.")] = None,
) -> None:
    """Start one JupyterLab with your S3 buckets in its file tree, without a hub; more options go to JupyterLab."""
    from habari.server import lab as server_lab  # noqa: PLC0415 - not installed with every extra

    raise typer.Exit(server_lab.main(bucket or [], context.args))


def _accounts_file(directory: Path) -> Path:
    from habari.local import accounts, folder  # noqa: PLC0415 - not installed with every extra

    return folder.Folder.prepare(directory).path / accounts.FILE


def _announce(prepared: plan.Plan) -> None:
    from habari.local import accounts  # noqa: PLC0415 - not installed with every extra

    console.print(f"\n  Open {prepared.url}")
    if prepared.tenant.sign_in.method == "local":
        file = prepared.data.path / accounts.FILE
        if not accounts.list_all(file):
            password = accounts.add(file, "admin", admin=True)
            console.print(f"  Sign in as admin with the first password {password} (shown only now)")
        where = "" if prepared.options.dir == _DEFAULT_DIR else f" --dir {prepared.data.path}"
        console.print(f"  Let others in with: {sys.argv[0]} user add NAME{where}")
    console.print(f"  Everything is kept in {prepared.data.path}")
    console.print("  Stop with Ctrl-C\n")


def _fail(sentence: str) -> NoReturn:
    print(f"habari: {sentence}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
