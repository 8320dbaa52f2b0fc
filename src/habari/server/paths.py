"""From a path of the tree to the place it names, and back; pure, and used by every other module of the tree.

A key of an object store is any text; a path of Jupyter's contents API is not: segments are not empty, `.` or `..`,
and the server keeps `checkpoints` and `trust` for itself (https://jupyter-server.readthedocs.io/en/latest/developers/rest-api.html).
Two signs carry the rest, one to one:

* `∅` before a segment that the API cannot carry: the key `a//b` is shown as `a/∅/b`, `./x` as `∅./x`.
* `▸` after a folder that must be told from an object of the same name: beside the object `a`, the folder `a/` is `a▸`.

A name that itself starts or ends with these signs gets them doubled.
"""

from __future__ import annotations

import dataclasses

from habari.core import errors

BUCKETS = "buckets"
"""Name of the virtual folder that holds the buckets."""

_HOME_SUFFIX = " (home)"
_ESCAPE = "∅"
_FOLDER = "▸"
_RESERVED = frozenset(("", ".", "..", "checkpoints", "trust"))


@dataclasses.dataclass(frozen=True)
class HomePlace:
    """A file or folder of the home; `path` is relative to it, without slashes at the ends."""

    path: str


@dataclasses.dataclass(frozen=True)
class BucketsPlace:
    """The virtual folder that holds the buckets."""


@dataclasses.dataclass(frozen=True)
class KeyPlace:
    """A place in a bucket: its root where `key` is empty and `folder` is true, else an object, a prefix or both.

    `folder` says that the path can only mean the prefix `key + "/"`; without it, an object `key` comes first.
    """

    bucket: str
    key: str
    folder: bool = False

    @property
    def is_root(self) -> bool:
        """Whether this is the bucket itself."""
        return self.folder and not self.key and self._root

    @property
    def prefix(self) -> str:
        """The prefix of the keys inside this place."""
        return "" if self.is_root else f"{self.key}/"

    @property
    def name(self) -> str:
        """The last segment of the key, as it is in the store."""
        return self.key.rpartition("/")[2]

    _root: bool = False

    @classmethod
    def root(cls, bucket: str) -> KeyPlace:
        """Return the place of a whole bucket."""
        return cls(bucket, "", folder=True, _root=True)


Place = HomePlace | BucketsPlace | KeyPlace


def parse(path: str) -> Place:
    """Return what a path of the tree names.

    Args:
        path: API path; slashes at its ends do not count.

    Raises:
        InvalidInputError: If a segment is empty, `.` or `..`.
    """
    segments = path.strip("/").split("/")
    if segments == [""]:
        return HomePlace("")
    if segments[0] != BUCKETS:
        return HomePlace("/".join([_home_name(segments[0]), *segments[1:]]))
    for segment in segments[1:]:
        if segment in {"", ".", ".."}:
            msg = (
                f"The path {path!r} has the segment {segment!r}, which a path of the tree cannot hold; "
                f"write {_ESCAPE + segment!r} to name such a part of a key."
            )
            raise errors.InvalidInputError(msg)
    if len(segments) == 1:
        return BucketsPlace()
    bucket = decode(segments[1])[0]
    if len(segments) == 2:  # noqa: PLR2004 - buckets/NAME
        return KeyPlace.root(bucket)
    decoded = [decode(segment) for segment in segments[2:]]
    return KeyPlace(bucket, "/".join(name for name, _ in decoded), folder=decoded[-1][1])


def unparse(place: Place) -> str:
    """Return the path of a place: `parse(unparse(place)) == place`."""
    match place:
        case HomePlace(path=path):
            first, slash, rest = path.partition("/")
            return f"{_shown_home_name(first)}{slash}{rest}"
        case BucketsPlace():
            return BUCKETS
        case KeyPlace():
            if place.is_root:
                return f"{BUCKETS}/{encode(place.bucket)}"
            *parents, last = place.key.split("/")
            segments = [*(encode(each) for each in parents), encode(last, folder=place.folder)]
            return "/".join((BUCKETS, encode(place.bucket), *segments))


def encode(name: str, *, folder: bool = False) -> str:
    """Return the segment of a path for one segment of a key.

    Args:
        name: What stands between two slashes of the key; any text without a slash.
        folder: Say that the segment means the folder, beside an object of the same name.
    """
    marks = len(name) - len(name.rstrip(_FOLDER))
    segment = name + _FOLDER * (marks + folder)
    return _ESCAPE + segment if segment.lstrip(_ESCAPE) in _RESERVED else segment


def decode(segment: str) -> tuple[str, bool]:
    """Return the segment of the key that a segment of a path stands for, and whether it can only be a folder."""
    if segment.startswith(_ESCAPE) and segment.lstrip(_ESCAPE) in _RESERVED:
        segment = segment[1:]
    marks = len(segment) - len(segment.rstrip(_FOLDER))
    return segment[: len(segment) - marks // 2 - marks % 2], bool(marks % 2)


def shown(name: str, *, is_folder: bool, has_twin: bool = False) -> str:
    """Return how a listing names an entry.

    Args:
        name: Segment of the key.
        is_folder: Whether the entry is a prefix.
        has_twin: Whether the same listing holds an object and a prefix of that name.
    """
    return encode(name, folder=is_folder and (has_twin or name in {"checkpoints", "trust"}))


def parent(path: str) -> str:
    """Return the path of the folder that holds `path`; the root is the empty text."""
    return path.strip("/").rpartition("/")[0]


def name(path: str) -> str:
    """Return the last segment of a path."""
    return path.strip("/").rpartition("/")[2]


def _home_name(segment: str) -> str:
    inner = segment.removesuffix(_HOME_SUFFIX)
    return inner if inner != segment and _is_taken(inner) else segment


def _shown_home_name(segment: str) -> str:
    return segment + _HOME_SUFFIX if _is_taken(segment) else segment


def _is_taken(segment: str) -> bool:
    while segment.endswith(_HOME_SUFFIX):
        segment = segment.removesuffix(_HOME_SUFFIX)
    return segment == BUCKETS
