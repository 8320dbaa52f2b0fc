"""What this server last told its user about each object; the base of every conditional write, computed without I/O.

JupyterLab saves by looking at the file, writing it, and looking at it again. It sends no ETag with the
write, so the one it was last told is kept here. The look right after the write is answered from the
write: otherwise Lab would take a version that a colleague wrote in between for its own, and write over it.
Two tabs of one user share what is kept here.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable

from habari.server import paths, s3

_MAX_OBJECTS = 10_000
"""Objects remembered: arbitrary, some 3 MB; what is forgotten costs one more request at its next save."""

RECENT_S = 10.0
"""Seconds in which a look is answered from our own write: arbitrary, longer than a slow network needs."""

_LOOK_S = 5.0
"""Seconds for which an existence check counts: Jupyter's handler asks right before it saves."""


@dataclasses.dataclass
class _Known:
    etag: str | None
    """ETag last handed out in a file's own answer; None before the first."""
    written: s3.Meta | None = None
    written_at: float = 0.0
    looked: s3.Meta | None = None
    looked_at: float = float("-inf")


class Seen:
    """The memory of one server.

    Args:
        clock: Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing known."""
        self._clock = clock
        self._known: collections.OrderedDict[tuple[str, str], _Known] = collections.OrderedDict()

    def told(self, place: paths.KeyPlace, meta: s3.Meta) -> None:
        """Note that a file's own answer showed this version."""
        known = self._at(place)
        known.etag = meta.etag
        if known.written is not None and known.written.etag != meta.etag:
            known.written = None

    def wrote(self, place: paths.KeyPlace, meta: s3.Meta) -> None:
        """Note a version that this server wrote and told."""
        known = self._at(place)
        known.etag, known.written, known.written_at = meta.etag, meta, self._clock()
        known.looked_at = float("-inf")

    def looked(self, place: paths.KeyPlace, meta: s3.Meta | None) -> None:
        """Note what an existence check found, which nobody was told."""
        known = self._at(place)
        known.looked, known.looked_at = meta, self._clock()

    def etag(self, place: paths.KeyPlace) -> str | None:
        """Return the ETag last told."""
        known = self._known.get((place.bucket, place.key))
        return known.etag if known else None

    def recent(self, place: paths.KeyPlace) -> s3.Meta | None:
        """Return the version that this server wrote a moment ago."""
        known = self._known.get((place.bucket, place.key))
        if known is None or known.written is None or self._clock() - known.written_at > RECENT_S:
            return None
        return known.written

    def take_look(self, place: paths.KeyPlace) -> tuple[bool, s3.Meta | None]:
        """Return whether an existence check was made just now, and what it found; it counts once."""
        known = self._known.get((place.bucket, place.key))
        if known is None or self._clock() - known.looked_at > _LOOK_S:
            return False, None
        known.looked_at = float("-inf")
        return True, known.looked

    def forget(self, place: paths.KeyPlace) -> None:
        """Forget an object."""
        self._known.pop((place.bucket, place.key), None)

    def forget_below(self, bucket: str, prefix: str) -> None:
        """Forget every object of a folder."""
        for known in [each for each in self._known if each[0] == bucket and each[1].startswith(prefix)]:
            del self._known[known]

    def _at(self, place: paths.KeyPlace) -> _Known:
        name = (place.bucket, place.key)
        known = self._known.setdefault(name, _Known(None))
        self._known.move_to_end(name)
        if len(self._known) > _MAX_OBJECTS:
            self._known.popitem(last=False)
        return known
