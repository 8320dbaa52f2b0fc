"""Local accounts: who may sign in on one machine, with which password; kept in one small file.

The command line changes the file (`habari user …`) while the hub reads it, so every change is at once in
force. It holds argon2id hashes, no passwords. Each account has a random subject id: an account that is
removed and made anew is another person, whose launch the storage service refuses until an admin decides.
"""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import json
import secrets
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import argon2
import pydantic

from habari.core import errors
from habari.local import secretfiles

FILE = "hub/accounts"
"""Where the accounts are, in the data folder."""

ISSUER = "local"
"""Issuer of local accounts, beside the subject id."""

MIN_PASSWORD_LENGTH = 12
"""Fewest characters of a password that a person chooses: arbitrary, above the 8 of NIST SP 800-63B section 3.1.1."""

MAX_PASSWORD_LENGTH = 1024
"""Most characters of a password: arbitrary, so that hashing does not eat a request of megabytes."""

_MAX_NAME_LENGTH = 64
_GROUPS, _GROUP_LENGTH = 4, 5
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that is read as something else
_HASHER = argon2.PasswordHasher()


class AccountSummary(TypedDict):
    """What `habari user list` shows."""

    name: str
    admin: bool
    must_change: bool
    created_at: str


class Account(pydantic.BaseModel):
    """One account, as the file holds it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    subject: str
    """Random id of the person, never used again."""
    password_hash: str = pydantic.Field(repr=False)
    """argon2id, with its salt and parameters."""
    admin: bool = False
    must_change: bool = True
    """The password was made by the platform: the owner is asked for one of their own."""
    created_at: str = ""
    """When, as ISO 8601."""


Accounts = dict[str, Account]

_FILE_MODEL = pydantic.TypeAdapter(Accounts)


def normalize(name: str) -> str:
    """Return the one form of a user name: NFKC, lower case, no space around it.

    Raises:
        InvalidInputError: If it is no user name.
    """
    result = unicodedata.normalize("NFKC", name).strip().lower()
    inner = all(each.isalnum() or each in "._-+@" for each in result)
    if not result or len(result) > _MAX_NAME_LENGTH or not result[0].isalnum() or not inner:
        msg = (
            f"The user name {name[:80]!r} is not valid: expected 1 to {_MAX_NAME_LENGTH} letters, digits and "
            ". _ - + @, starting with a letter or digit."
        )
        raise errors.InvalidInputError(msg)
    return result


def check_password(name: str, password: str) -> None:
    """Return if a person may choose this password.

    Raises:
        InvalidInputError: If it is too short, too long, or the user's name.
    """
    if len(password) < MIN_PASSWORD_LENGTH:
        msg = f"The new password has {len(password)} characters; expected {MIN_PASSWORD_LENGTH} or more."
        raise errors.InvalidInputError(msg)
    if len(password) > MAX_PASSWORD_LENGTH:
        msg = f"The new password is longer than {MAX_PASSWORD_LENGTH:,} characters; choose a shorter one."
        raise errors.InvalidInputError(msg)
    if password.lower().replace(" ", "") in {name, name * 2}:
        msg = "The new password is your user name; choose one that others do not guess."
        raise errors.InvalidInputError(msg)


def make_password() -> str:
    """Return a new random password of 99 bits, in groups that can be read out."""
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP_LENGTH)) for _ in range(_GROUPS))
    return "-".join(groups)


def make_hash(password: str) -> str:
    """Return the hash of a password; takes some 50 ms and 64 MiB."""
    return _HASHER.hash(password)


def matches(password_hash: str, password: str) -> bool:
    """Tell whether a password is the one of a hash; takes as long for a wrong one."""
    try:
        return bool(_HASHER.verify(password_hash, password))
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def added(kept: Mapping[str, Account], name: str, account: Account) -> Accounts:
    """Return the accounts with one more.

    Raises:
        ConflictError: If the name is taken.
    """
    if name in kept:
        msg = f"There is an account {name!r} already. Set a new password with: habari user password {name}"
        raise errors.ConflictError(msg)
    return {**kept, name: account}


def changed(kept: Mapping[str, Account], name: str, **changes: object) -> Accounts:
    """Return the accounts with one changed.

    Raises:
        NotFoundError: If there is no such account.
    """
    return {**kept, name: _existing(kept, name).model_copy(update=changes)}


def removed(kept: Mapping[str, Account], name: str) -> Accounts:
    """Return the accounts without one.

    Raises:
        NotFoundError: If there is no such account.
        ConflictError: If it is the last administrator's.
    """
    account = _existing(kept, name)
    rest = {each: kept[each] for each in kept if each != name}
    if account.admin and not any(each.admin for each in rest.values()):
        msg = f"The account {name!r} is the last administrator's. Add another first: habari user add NAME --admin"
        raise errors.ConflictError(msg)
    return rest


def load(file: Path) -> Accounts:
    """Return all accounts; a file that is not there yet holds none.

    Raises:
        ConfigError: If the file cannot be read or is damaged.
    """
    try:
        return _FILE_MODEL.validate_json(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        msg = f"The accounts in {file} cannot be read: {error.strerror}. Mend the file's rights."
        raise errors.ConfigError(msg) from error
    except pydantic.ValidationError as error:
        msg = f"The accounts in {file} are damaged; restore the file from a backup. Nobody can sign in until then."
        raise errors.ConfigError(msg) from error


def add(file: Path, name: str, *, admin: bool = False) -> str:
    """Add an account and return its first password, which is kept nowhere.

    Raises:
        InvalidInputError: If the name is not valid.
        ConflictError: If it is taken.
    """
    name, password = normalize(name), make_password()
    account = Account(
        subject=secrets.token_hex(16),
        password_hash=make_hash(password),
        admin=admin,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    _update(file, lambda kept: added(kept, name, account))
    return password


def remove(file: Path, name: str) -> None:
    """Remove an account; its owner is signed out at the next request, and the name's data stays.

    Raises:
        NotFoundError: If there is no such account.
        ConflictError: If it is the last administrator's.
    """
    name = normalize(name)
    _update(file, lambda kept: removed(kept, name))


def reset_password(file: Path, name: str) -> str:
    """Give an account a new random password, to be changed by its owner, and return it.

    Raises:
        NotFoundError: If there is no such account.
    """
    name, password = normalize(name), make_password()
    password_hash = make_hash(password)
    _update(file, lambda kept: changed(kept, name, password_hash=password_hash, must_change=True))
    return password


def set_password(file: Path, name: str, password: str) -> None:
    """Give an account the password that its owner chose.

    Raises:
        InvalidInputError: If the password is not acceptable.
        NotFoundError: If there is no such account.
    """
    check_password(name, password)
    password_hash = make_hash(password)
    _update(file, lambda kept: changed(kept, name, password_hash=password_hash, must_change=False))


def list_all(file: Path) -> list[AccountSummary]:
    """Return all accounts in the order of their names, without hashes."""
    return [
        {"name": name, "admin": each.admin, "must_change": each.must_change, "created_at": each.created_at}
        for name, each in sorted(load(file).items())
    ]


@dataclasses.dataclass
class Reader:
    """Reads the accounts, again only after the file has changed; a request costs one `stat`."""

    file: Path
    _stamp: tuple[int, ...] | None = None
    _kept: Accounts = dataclasses.field(default_factory=dict)

    def get(self, name: str) -> Account | None:
        """Return an account, or None.

        Raises:
            ConfigError: If the file cannot be read or is damaged.
        """
        return self.all().get(name)

    def all(self) -> Accounts:
        """Return all accounts: the same mapping as before while the file is the same.

        Raises:
            ConfigError: If the file cannot be read or is damaged.
        """
        try:
            status = self.file.stat()
            stamp: tuple[int, ...] | None = (status.st_ino, status.st_mtime_ns, status.st_size)
        except FileNotFoundError:
            stamp = None
        if stamp != self._stamp:
            self._kept, self._stamp = load(self.file), stamp
        return self._kept


def _existing(kept: Mapping[str, Account], name: str) -> Account:
    if name not in kept:
        msg = f"There is no account {name!r}. See them with: habari user list"
        raise errors.NotFoundError(msg)
    return kept[name]


def _update(file: Path, decide: Callable[[Accounts], Accounts]) -> None:
    with _locked(file):
        accounts = decide(load(file))
        text = json.dumps({name: each.model_dump() for name, each in sorted(accounts.items())}, indent=1)
        secretfiles.write(file, text.encode())


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    # A lock file of its own: the accounts' file is replaced by each change.
    secretfiles.make_folder(file.parent)
    with file.with_name(f"{file.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
