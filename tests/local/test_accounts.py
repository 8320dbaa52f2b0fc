"""Local accounts: names, passwords, the file that holds them, and how guessing is slowed down."""

from __future__ import annotations

import concurrent.futures
import json
from pathlib import Path

import pytest

from habari.core import errors
from habari.local import accounts, forwarded, throttle


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "accounts"


@pytest.mark.parametrize(
    ("typed", "name"), [("Ada", "ada"), (" ada ", "ada"), ("\uff42ob", "bob"), ("a.b_c-d@e.org", "a.b_c-d@e.org")]
)
def test_a_name_has_one_form(typed: str, name: str) -> None:
    assert accounts.normalize(typed) == name


@pytest.mark.parametrize("typed", ["", " ", "a b", "../x", "a/b", ".a", "-a", "a\x00", "x" * 65, "a\nb", "a:b"])
def test_what_is_no_name_is_refused(typed: str) -> None:
    with pytest.raises(
        errors.InvalidInputError, match=r"is not valid: expected 1 to 64 letters, digits and \. _ - \+ @"
    ):
        accounts.normalize(typed)


def test_a_chosen_password_has_rules() -> None:
    accounts.check_password("ada", "correct horse")
    with pytest.raises(errors.InvalidInputError, match=r"^The new password has 5 characters; expected 12 or more\.$"):
        accounts.check_password("ada", "short")
    with pytest.raises(errors.InvalidInputError, match=r"longer than 1,024 characters; choose a shorter one"):
        accounts.check_password("ada", "x" * 1025)
    with pytest.raises(errors.InvalidInputError, match=r"is your user name; choose one that others do not guess"):
        accounts.check_password("ada-lovelace", "Ada-Lovelace")


def test_an_account_is_added_once_and_only_its_hash_kept(file: Path) -> None:
    password = accounts.add(file, "Ada", admin=True)
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert password not in text
    kept = accounts.load(file)["ada"]
    assert kept.admin
    assert kept.must_change
    assert accounts.matches(kept.password_hash, password)
    assert not accounts.matches(kept.password_hash, password + "x")
    assert not accounts.matches("no hash at all", password)
    assert kept.password_hash not in repr(kept)
    with pytest.raises(errors.ConflictError, match=r"There is an account 'ada' already.*habari user password ada"):
        accounts.add(file, "ada")


def test_a_password_is_random_and_can_be_read_out() -> None:
    assert accounts.make_password() != accounts.make_password()
    assert len(accounts.make_password()) == 23
    assert not set("ilo01") & set(accounts.make_password())


def test_a_password_is_changed_by_its_owner_or_anew(file: Path) -> None:
    first = accounts.add(file, "ada")
    accounts.set_password(file, "ada", "correct horse battery")
    kept = accounts.load(file)["ada"]
    assert not kept.must_change
    assert accounts.matches(kept.password_hash, "correct horse battery")
    assert not accounts.matches(kept.password_hash, first)
    again = accounts.reset_password(file, "ada")
    kept = accounts.load(file)["ada"]
    assert kept.must_change
    assert accounts.matches(kept.password_hash, again)
    with pytest.raises(errors.NotFoundError, match=r"There is no account 'bob'\. See them with: habari user list"):
        accounts.reset_password(file, "bob")


def test_an_account_made_anew_is_another_person(file: Path) -> None:
    accounts.add(file, "root", admin=True)
    accounts.add(file, "ada")
    subject = accounts.load(file)["ada"].subject
    accounts.remove(file, "ada")
    accounts.add(file, "ada")
    assert accounts.load(file)["ada"].subject != subject


def test_the_last_administrator_stays(file: Path) -> None:
    accounts.add(file, "root", admin=True)
    accounts.add(file, "ada")
    with pytest.raises(errors.ConflictError, match=r"'root' is the last administrator's\. Add another first"):
        accounts.remove(file, "root")
    with pytest.raises(errors.NotFoundError, match=r"There is no account 'bob'"):
        accounts.remove(file, "bob")


def test_the_list_shows_no_hash(file: Path) -> None:
    assert accounts.list_all(file) == []
    accounts.add(file, "bob")
    accounts.add(file, "ada", admin=True)
    listed = accounts.list_all(file)
    assert [(each["name"], each["admin"]) for each in listed] == [("ada", True), ("bob", False)]
    assert "argon2" not in json.dumps(listed)


def test_a_damaged_file_lets_nobody_in(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("{not json")
    with pytest.raises(errors.ConfigError, match=r"are damaged; restore the file from a backup\. Nobody can sign in"):
        accounts.load(file)
    with pytest.raises(errors.ConfigError, match=r"cannot be read: Is a directory"):
        accounts.load(file.parent)


def test_two_commands_at_once_lose_nothing(file: Path) -> None:
    names = [f"user{number}" for number in range(8)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: accounts.add(file, name), names))
    assert sorted(accounts.load(file)) == names


def test_a_reader_sees_each_change_at_once(file: Path) -> None:
    reader = accounts.Reader(file)
    assert reader.get("ada") is None
    accounts.add(file, "root", admin=True)
    accounts.add(file, "ada")
    seen = reader.get("ada")
    assert seen
    assert reader.get("ada") is seen
    accounts.remove(file, "ada")
    assert reader.get("ada") is None


def test_tries_on_one_account_wait_for_each_other_wherever_they_come_from() -> None:
    slow = throttle.Throttle()
    waits = [slow.take(throttle.Try("ada", f"192.0.2.{number}"), 0.0) for number in range(13)]
    assert waits == [0.0] * 10 + [1.0, 2.0, 3.0]
    assert slow.take(throttle.Try("ada", "192.0.2.99"), 14.0) == 0.0, "time frees turns"
    assert slow.take(throttle.Try("bob", "192.0.2.1"), 0.0) == 0.0


def test_who_would_wait_too_long_is_turned_away_and_takes_no_turn() -> None:
    slow = throttle.Throttle()
    waits = [slow.take(throttle.Try("ada", f"192.0.2.{number}"), 0.0) for number in range(60)]
    assert waits[39:] == [30.0] + [None] * 20
    assert slow.take(throttle.Try("ada", "203.0.113.1"), 1.0) == 30.0


def test_one_address_on_many_accounts_waits_too() -> None:
    slow = throttle.Throttle()
    waits = [slow.take(throttle.Try(f"user{number}", "192.0.2.1"), 0.0) for number in range(35)]
    assert waits[:30] == pytest.approx([0.0] * 30)
    assert waits[34] == pytest.approx(1.0)
    assert slow.take(throttle.Try("ada", "192.0.2.2"), 0.0) == 0.0


def test_a_known_browser_waits_for_its_own_tries_alone() -> None:
    slow = throttle.Throttle()
    for _ in range(60):
        slow.take(throttle.Try("ada", "192.0.2.1"), 0.0)
    hers = throttle.Try("ada", "192.0.2.1", "her browser")
    assert [slow.take(hers, 0.0) for _ in range(7)] == [0.0] * 5 + [1.0, 2.0]
    assert slow.take(throttle.Try("ada", "192.0.2.1", "her other browser"), 0.0) == 0.0


def test_a_right_password_gives_its_turn_back() -> None:
    slow = throttle.Throttle()
    who = throttle.Try("ada", "192.0.2.1")
    for _ in range(100):
        assert slow.take(who, 0.0) == 0.0
        slow.give_back(who)
    slow.give_back(throttle.Try("nobody", "192.0.2.2"))


def test_one_ipv6_customer_is_one_address() -> None:
    assert throttle.network("2001:db8:1:2:3::4") == throttle.network("2001:db8:1:2::9")
    assert throttle.network("2001:db8:1:2::") != throttle.network("2001:db8:1:3::")
    assert throttle.network("192.0.2.1") != throttle.network("192.0.2.2")
    assert throttle.network("unix") == "unix"


def test_the_memory_of_tries_is_bounded() -> None:
    slow = throttle.Throttle()
    for number in range(throttle.MAX_TRACKED):
        slow.take(throttle.Try(f"user{number}", f"address {number}"), 0.0)
    assert slow.tracked <= throttle.MAX_TRACKED


MARKED = {forwarded.HEADER: "the mark", "X-Real-Ip": "6.6.6.6"}


@pytest.mark.parametrize(
    ("headers", "behind_proxy", "address"),
    [
        ({**MARKED, "X-Forwarded-For": "203.0.113.9"}, False, "203.0.113.9"),
        ({**MARKED, "X-Forwarded-For": "6.6.6.6, 203.0.113.9, 10.0.0.1"}, True, "203.0.113.9"),
        ({**MARKED, "X-Forwarded-For": "10.0.0.1"}, True, "10.0.0.1"),
        (MARKED, False, "local"),
        ({"X-Forwarded-For": "203.0.113.9"}, False, "local"),
        ({forwarded.HEADER: "a guess", "X-Forwarded-For": "203.0.113.9"}, False, "local"),
    ],
)
def test_an_address_counts_if_the_proxy_tells_it(headers: dict[str, str], behind_proxy: bool, address: str) -> None:  # noqa: FBT001 - a parameter of the test
    assert forwarded.client(headers, "the mark", behind_proxy=behind_proxy) == address


def test_without_a_mark_no_address_counts() -> None:
    assert forwarded.client({"X-Forwarded-For": "203.0.113.9"}, "", behind_proxy=False) == "local"
