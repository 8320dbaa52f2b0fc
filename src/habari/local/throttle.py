"""Slows the guessing of passwords down: each try waits for its turn, and a right password is checked like a wrong one.

Tries take turns, of an account and of an address: some at once, then one after a pause. A right password gives its
turn back, so that only wrong ones use turns up. A browser in which the owner of the account has signed in before has
turns of its own, and nobody else's guesses hold it up. Any other browser waits behind those who came first, and is
turned away only where that would take longer than `LONGEST_WAIT_S`: nothing tells it from a flood of guesses.
"""

from __future__ import annotations

import collections
import dataclasses
import ipaddress

LONGEST_WAIT_S = 30.0
"""Longest wait for a turn: arbitrary, what people may take for a slow page."""

MAX_TRACKED = 10_000
"""Most accounts, addresses and browsers kept in mind, the least used dropped: arbitrary, some megabytes."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast turns come: `at_once` of them, then one every `pause_s` seconds."""

    at_once: int
    pause_s: float


ACCOUNT = Pace(10, 1.0)
"""Tries on one account, those of browsers that its owner has used left out: arbitrary, room for typing errors."""

ADDRESS = Pace(30, 0.2)
"""Tries of one address on all accounts: arbitrary, a class room behind one address."""

BROWSER = Pace(5, 1.0)
"""Tries of one browser that the account's owner has used: arbitrary, room for typing errors."""


@dataclasses.dataclass(frozen=True)
class Try:
    """A try to sign in.

    Attributes:
        account: The account.
        address: Where it comes from.
        browser: The browser, if the account's owner has signed in with it before; else empty.
    """

    account: str
    address: str
    browser: str = ""

    @property
    def turns(self) -> dict[tuple[str, ...], Pace]:
        """What the try takes turns of."""
        if self.browser:
            return {("browser", self.account, self.browser): BROWSER}
        return {("account", self.account): ACCOUNT, ("address", network(self.address)): ADDRESS}


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
    """Keeps turns in memory; a restart of the hub forgets them."""

    def __init__(self) -> None:
        """Begin with all turns free."""
        # When the turns taken so far would be over, had there been none at once.
        self._taken: collections.OrderedDict[tuple[str, ...], float] = collections.OrderedDict()

    def take(self, who: Try, now: float) -> float | None:
        """Take a turn, and return the seconds until it comes; None if it is too far away, and then none is taken."""
        until = {key: max(self._taken.get(key, now), now) for key in who.turns}
        wait_s = max(until[key] - now - (pace.at_once - 1) * pace.pause_s for key, pace in who.turns.items())
        if wait_s > LONGEST_WAIT_S:
            return None
        for key, pace in who.turns.items():
            self._taken[key] = until[key] + pace.pause_s
            self._taken.move_to_end(key)
        while len(self._taken) > MAX_TRACKED:
            self._taken.popitem(last=False)
        return max(0.0, wait_s)

    def give_back(self, who: Try) -> None:
        """Free the turn of a try that was right, or was not checked."""
        for key, pace in who.turns.items():
            if key in self._taken:
                self._taken[key] -= pace.pause_s

    @property
    def tracked(self) -> int:
        """How many accounts, addresses and browsers are kept in mind."""
        return len(self._taken)
