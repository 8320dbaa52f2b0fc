"""Sign-in with local accounts, and the page on which people change their own password."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from jupyterhub import orm
from jupyterhub.auth import Authenticator
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.handlers.login import LoginHandler
from jupyterhub.utils import url_path_join
from tornado import web
from tornado.httputil import url_concat
from traitlets import Bool, Unicode
from traitlets import Callable as CallableTrait

from habari.core import errors
from habari.hub import identity, launch, settings
from habari.local import accounts, forwarded, homes, throttle

_HASHES_AT_ONCE = 2
"""Passwords checked at once: each takes 64 MiB and a core for some 50 ms."""

_HASHES_WAITING = 30
"""Sign-ins that may wait for their check: arbitrary, some seconds' worth; more are turned away at once."""

_WATCH_S = 1.0
"""Seconds between looks at the accounts' file, each one `stat`: arbitrary."""

_RETRY_S = 5.0
"""Seconds until a look that failed is repeated: arbitrary."""

_COOKIE = "habari-known-browser"
"""Cookie with a random id of the browser for each account that has signed in there."""

_COOKIE_DAYS = 90
_COOKIE_NAMES = 5
"""Accounts that one browser is known for: arbitrary, a cookie is small."""

_Result = TypeVar("_Result")


def configure(c: Any, environ: Mapping[str, str] = os.environ) -> None:
    """Let people sign in with local accounts, if habari.yaml says so; call it after `habari.hub.configure`.

    Without isolation, and whatever the sign-in, only the first user who comes is let in.

    Args:
        c: The configuration object of a `jupyterhub_config.py`.
        environ: What `habari.hub.configure` reads, HABARI_DIR with the data folder, and HABARI_ISOLATION.
    """
    if settings.read_tenant(environ).sign_in.method == "local":
        _use_accounts(c, Path(environ["HABARI_DIR"]) / accounts.FILE, settings.read_check(environ))
        c.AccountAuthenticator.retire = settings.read_retire(environ)
    if not homes.isolated(environ):
        homes.admit_one(c, Path(environ["HABARI_DIR"]))


def _use_accounts(c: Any, file: Path, check: identity.Check) -> None:
    c.JupyterHub.authenticator_class = AccountAuthenticator
    c.AccountAuthenticator.accounts_file = str(file)
    c.Authenticator.post_auth_hook = identity.make_hook(lambda result: result["auth_state"], check)
    # An account that was removed or changed shows at the next request; asking costs one stat.
    c.Authenticator.auth_refresh_age = 1
    templates = [*c.JupyterHub.template_paths, str(Path(__file__).parent / "templates")]
    c.JupyterHub.template_paths = templates
    c.JupyterHub.template_vars = {**c.JupyterHub.template_vars, "habari_account_page": True}


class AccountAuthenticator(Authenticator):  # type: ignore[misc]  # jupyterhub is untyped
    """Lets in whoever has an account and knows its password, nobody else."""

    accounts_file = Unicode(config=True, help="File of the accounts; no default.")
    proxy_mark = Unicode(config=True, help="What the proxy puts on its requests; without it, no address is believed.")
    behind_proxy = Bool(config=True, help="Another proxy is in front of the platform's; by default there is none.")
    retire = CallableTrait(config=True, help="Tells the storage service that a person's access has ended; no default.")

    def __init__(self, **kwargs: Any) -> None:
        """Begin with no failures counted."""
        super().__init__(**kwargs)
        self._reader = accounts.Reader(Path(self.accounts_file))
        self._throttle = throttle.Throttle()
        self._changing = asyncio.Lock()
        self._slots = asyncio.Semaphore(_HASHES_AT_ONCE)
        self._waiting = 0
        # Checked for names without an account, so that the time of an answer does not tell which names have one.
        self._decoy = accounts.make_hash(accounts.make_password())

    def normalize_username(self, username: str) -> str:
        """Return the one form of a name; what is no name stays as typed, and no account has it."""
        try:
            return accounts.normalize(username)
        except errors.InvalidInputError:
            return username

    def account(self, name: str) -> accounts.Account | None:
        """Return an account as it is now."""
        return self._reader.get(name)

    async def authenticate(self, handler: Any, data: Mapping[str, str]) -> dict[str, Any] | None:
        """Return who signs in, or None if name or password is wrong.

        Raises:
            HTTPError: 429 if too many sign in at once.
        """
        name = self.normalize_username(data.get("username", ""))
        known = json.loads(handler.get_signed_cookie(_COOKIE, max_age_days=_COOKIE_DAYS) or "{}")
        account = await self.check(name, data.get("password", ""), self._try(handler, name, known.get(name, "")))
        if account is None:
            return None
        self._remember(handler, name, known)
        if (user := handler.find_user(name)) is not None:
            async with self._changing:
                await self._follow_password(user, account, handler.db)
        return {
            "name": name,
            "admin": account.admin or name in self.admin_users,
            "auth_state": _binding(account),
        }

    def _try(self, handler: Any, name: str, browser: str) -> throttle.Try:
        headers = handler.request.headers
        address = forwarded.client(headers, self.proxy_mark, behind_proxy=self.behind_proxy)
        return throttle.Try(name, address, browser)

    def _remember(self, handler: Any, name: str, known: dict[str, str]) -> None:
        # Without its owner's password, nobody gets a browser that others' guesses do not hold up.
        kept = {name: known.get(name) or secrets.token_hex(16), **known}
        value = json.dumps(dict(list(kept.items())[:_COOKIE_NAMES]))
        secure = handler.request.protocol == "https"
        options = {"httponly": True, "samesite": "Lax", "secure": secure, "path": handler.hub.base_url}
        handler.set_signed_cookie(_COOKIE, value, expires_days=_COOKIE_DAYS, **options)

    async def check(self, name: str, password: str, who: throttle.Try) -> accounts.Account | None:
        """Return the account if the password is right, else None; guesses wait longer and longer.

        Raises:
            HTTPError: 429 if too many sign in at once.
        """
        wait_s = self._throttle.take(who, time.monotonic())
        if wait_s is None:
            msg = "Too many tries to sign in wait for their turn. Wait a minute, then try again."
            raise web.HTTPError(HTTPStatus.TOO_MANY_REQUESTS, msg)
        await asyncio.sleep(wait_s)
        account = self.account(name)
        try:
            right = await self.in_thread(
                accounts.matches,
                account.password_hash if account else self._decoy,
                password[: accounts.MAX_PASSWORD_LENGTH],
            )
        except web.HTTPError:
            self._throttle.give_back(who)
            raise
        if account is None or not right:
            return None
        self._throttle.give_back(who)
        return account

    async def change_password(self, handler: Any, current: str, new: str) -> None:
        """Change the password of whoever is signed in, and end all their other sessions and tokens.

        Raises:
            PublicError: If the current password is wrong, or the new one not acceptable.
            HTTPError: 429 if too many sign in at once.
        """
        user = handler.current_user
        accounts.check_password(user.name, new)
        # A session of its own counts as a browser that the owner has used.
        if await self.check(user.name, current, self._try(handler, user.name, "signed in")) is None:
            msg = "The current password is wrong; your password was not changed."
            raise errors.NotPermittedError(msg)
        async with self._changing:  # else the watcher would end this session too
            change = functools.partial(accounts.set_password, Path(self.accounts_file), user.name)
            await self.in_thread(change, new)
            if (account := self.account(user.name)) is not None:
                await self._follow_password(user, account, handler.db)

    async def in_thread(self, work: Callable[..., _Result], *args: Any) -> _Result:
        """Run a function that hashes a password, few at once and not on the hub's loop.

        Raises:
            HTTPError: 429 if too many wait already.
        """
        if self._waiting >= _HASHES_WAITING:
            msg = "Too many people sign in at this moment. Wait some seconds, then try again."
            raise web.HTTPError(HTTPStatus.TOO_MANY_REQUESTS, msg)
        self._waiting += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(work, *args)
        finally:
            self._waiting -= 1

    def check_allowed(self, username: str, authentication: dict[str, Any] | None = None) -> bool:
        """Tell whether somebody may come in: having an account is what allows it."""
        del authentication
        return self.account(username) is not None

    async def refresh_user(self, user: Any, handler: Any = None, **_: Any) -> bool | dict[str, Any]:
        """Tell whether a session still stands: its account is there, and is the one that signed in."""
        del handler
        account = self.account(user.name)
        state = await user.get_auth_state()
        binding = _binding(account) if account else None
        if account is None or binding is None or not state or identity.changed(state, binding):
            return False
        if state.get("password") != binding["password"]:
            return False
        admin = account.admin or user.name in self.admin_users
        if admin != bool(user.admin):
            return {"name": user.name, "admin": admin, "auth_state": state}
        return True

    def pre_spawn_start(self, user: Any, spawner: Any) -> None:
        """Refuse a launch, asked for with an old token, when the account is gone: tokens are not refreshed.

        Raises:
            LaunchError: If there is no such account.
        """
        del spawner
        if self.account(user.name) is None:
            msg = f"There is no account {user.name!r} any more, so its server was not started. Ask an administrator."
            raise launch.LaunchError(errors.NotPermittedError(msg))

    async def _watch(self, app: Any) -> None:
        # Pages ask for the account themselves. A running server and its tokens do not.
        checked: accounts.Accounts | None = None
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                kept = self._reader.all()
                if kept is not checked:
                    await self._end_others(app, kept)
                    checked = kept
            except errors.HabariError as error:
                self.log.warning("The accounts' changes could not be followed; trying again. %s", error)
                await asyncio.sleep(_RETRY_S)
            except Exception:  # the top of a task: whatever it is, it must not let those stay who were removed
                self.log.exception("The accounts' changes could not be followed; trying again")
                app.db.rollback()
                await asyncio.sleep(_RETRY_S)

    async def _end_others(self, app: Any, kept: accounts.Accounts) -> None:
        failed: list[Exception] = []
        for orm_user in app.db.query(orm.User).all():
            try:
                async with self._changing:
                    await self._end_other(app, app.users[orm_user], kept.get(orm_user.name))
            except Exception as error:  # noqa: BLE001 - raised below; one user's trouble must not keep another in
                failed.append(error)
        if failed:
            raise failed[0]

    async def _end_other(self, app: Any, user: Any, account: accounts.Account | None) -> None:
        state = await user.get_auth_state()
        if not state:
            return
        if account is not None and not identity.changed(state, _binding(account)):
            await self._follow_password(user, account, app.db)
            return
        await identity.end_sessions(user, db=app.db, proxy=app.proxy, log=self.log)
        await self.retire(name=user.name, issuer=state["issuer"], subject=state["subject"])
        await user.save_auth_state(None)

    async def _follow_password(self, user: Any, account: accounts.Account, db: Any) -> None:
        """End the sessions and tokens that began with another password; the caller holds the lock."""
        state = await user.get_auth_state()
        password = _binding(account)["password"]
        if state and state.get("password") != password:
            self.log.info("The password of %s was changed: ending all other sessions and tokens", user.name)
            identity.end_others(user, db=db)
            await user.save_auth_state({**state, "password": password})

    def get_handlers(self, app: Any) -> list[tuple[str, type[BaseHandler]]]:
        """Return the pages that come with this sign-in; the hub calls it once, while it starts."""
        self._watching = asyncio.get_running_loop().create_task(self._watch(app), name="accounts")
        return [("/login", _LoginHandler), ("/account", AccountHandler)]


def _binding(account: accounts.Account) -> identity.Binding:
    password = hashlib.sha256(account.password_hash.encode()).hexdigest()
    return {**identity.make_binding(accounts.ISSUER, account.subject), "password": password}


class _LoginHandler(LoginHandler):  # type: ignore[misc]  # jupyterhub is untyped
    """The sign-in page, which leads to the account page while the first password is in use."""

    def get_next_url(self, user: Any = None, default: Any = None) -> str:
        target: str = super().get_next_url(user, default)
        account = self.authenticator.account(user.name) if user else None
        if account and account.must_change:
            return url_concat(url_path_join(self.hub.base_url, "account"), {"next": target})
        return target


class AccountHandler(BaseHandler):  # type: ignore[misc]  # jupyterhub is untyped
    """`/hub/account`: the owner changes the password, and with it ends every other session of theirs."""

    @web.authenticated
    async def get(self) -> None:
        """Show the form."""
        await self._show()

    @web.authenticated
    async def post(self) -> None:
        """Change the password."""
        user = self.current_user
        given = {each: self.get_body_argument(each, "", strip=False) for each in ("current", "new", "again")}
        authenticator: AccountAuthenticator = self.authenticator
        try:
            if given["new"] != given["again"]:
                msg = "The two new passwords differ; type the same one twice."
                raise errors.InvalidInputError(msg)
            await authenticator.change_password(self, given["current"], given["new"])
        except errors.PublicError as error:
            await self._show(message=str(error), status=error.status)
            return
        except web.HTTPError as error:
            await self._show(message=error.get_message() or "", status=error.status_code)
            return
        self.set_login_cookie(user)
        self.log.info("User %s changed the password", user.name)
        await self._show(done=True)

    async def _show(self, *, message: str = "", done: bool = False, status: int = HTTPStatus.OK) -> None:
        account = self.authenticator.account(self.current_user.name)
        self.set_status(status)
        page = await self.render_template(
            "account.html",
            account=account,
            message=message,
            done=done,
            next_url=self.get_next_url(self.current_user) if self.get_argument("next", "") else "",
            minimum=accounts.MIN_PASSWORD_LENGTH,
        )
        self.finish(page)
