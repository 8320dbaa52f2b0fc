"""Slows the guessing of passwords down, without a lock that a stranger could close on the owner.

Failures are counted three ways: of one address on one account, of one address on all accounts, and of
all addresses on one account. The first two make that address wait. The third, which only many addresses
together reach, spaces tries out for addresses from which nobody has signed in to the account; an address
of the owner is not held up by it.
"""

from __future__ import annotations

import collections
import dataclasses
import ipaddress
import math
from collections.abc import Mapping
from typing import TypeVar

PAIR_FREE = 5
"""Failures of one address on one account before it waits: arbitrary, room for typing errors."""

ADDRESS_FREE = 20
"""Failures of one address on all accounts before it waits: arbitrary, a class room behind one address."""

ACCOUNT_FREE = 50
"""Failures of all addresses on one account before strangers' tries are spaced out: arbitrary."""

ACCOUNT_PAUSE_S = 5.0
"""Seconds between strangers' tries from then on: arbitrary, some 17,000 guesses a day."""

MAX_PAUSE_S = 900.0
"""Longest wait: arbitrary; 96 guesses a day."""

FORGET_S = 24 * 3600.0
"""Seconds without a failure after which one is forgotten."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

MAX_TRACKED = 10_000
"""Most counters kept, the least used dropped: arbitrary, some megabytes."""


@dataclasses.dataclass(frozen=True)
class Count:
    """Failures so far, and when the last was (seconds)."""

    failures: int = 0
    last: float = 0.0


def pause_s(count: Count, now: float, *, free: int, longest: float = MAX_PAUSE_S) -> float:
    """Return the seconds to wait before the next try: none, then 1, doubled with each failure."""
    over = count.failures - free
    if over < 0:
        return 0.0
    return max(0.0, count.last + min(longest, 2.0 ** min(over, 30)) - now)


def network(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 that one IPv6 customer has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:  # noqa: PLR2004 - IPv6
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


class Throttle:
    """Counts failures in memory; a restart of the hub forgets them."""

    def __init__(self) -> None:
        """Begin with no failures."""
        self._counts: collections.OrderedDict[tuple[str, ...], Count] = collections.OrderedDict()
        self._homes: collections.OrderedDict[tuple[str, str], None] = collections.OrderedDict()

    def wait_s(self, account: str, address: str, now: float) -> int:
        """Return the whole seconds that this address must wait before it may try this account; 0 for none."""
        place = network(address)
        waits = [
            pause_s(self._get(("pair", account, place), now), now, free=PAIR_FREE),
            pause_s(self._get(("address", place), now), now, free=ADDRESS_FREE),
        ]
        if (account, place) not in self._homes:
            count = self._get(("account", account), now)
            waits.append(pause_s(count, now, free=ACCOUNT_FREE, longest=ACCOUNT_PAUSE_S))
        return math.ceil(max(waits))

    def failed(self, account: str, address: str, now: float) -> None:
        """Count a failure. Call it before the password is checked, so that many at once count each."""
        place = network(address)
        for key in (("pair", account, place), ("address", place), ("account", account)):
            count = self._get(key, now)
            _keep(self._counts, key, Count(count.failures + 1, now))

    def succeeded(self, account: str, address: str) -> None:
        """Forget the failures of this address on this account, and the one just counted elsewhere."""
        place = network(address)
        self._counts.pop(("pair", account, place), None)
        for key in (("address", place), ("account", account)):
            if count := self._counts.get(key):
                self._counts[key] = Count(max(0, count.failures - 1), count.last)
        _keep(self._homes, (account, place), None)

    def _get(self, key: tuple[str, ...], now: float) -> Count:
        count = self._counts.get(key, Count())
        return Count() if now - count.last > FORGET_S else count

    @property
    def tracked(self) -> Mapping[tuple[str, ...], Count]:
        """The counters, for tests."""
        return self._counts


def _keep(kept: collections.OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > MAX_TRACKED:
        kept.popitem(last=False)
