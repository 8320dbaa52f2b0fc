"""What was told is the base of the next write."""

from __future__ import annotations

import datetime

from habari.server import paths, s3, seen

A = paths.KeyPlace("b", "a")


def meta(etag: str) -> s3.Meta:
    return s3.Meta(1, etag, datetime.datetime.now(datetime.UTC), "", {})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_last_file_answer_counts() -> None:
    known = seen.Seen()
    assert known.etag(A) is None
    known.told(A, meta("1"))
    known.told(A, meta("2"))
    assert known.etag(A) == "2"
    known.forget(A)
    assert known.etag(A) is None


def test_a_look_right_after_a_write_is_answered_from_it_for_a_while() -> None:
    clock = Clock()
    known = seen.Seen(clock)
    known.wrote(A, meta("1"))
    assert known.recent(A) == known.recent(A) is not None
    clock.now = seen.RECENT_S + 1
    assert known.recent(A) is None
    assert known.etag(A) == "1"


def test_a_newer_answer_ends_that() -> None:
    known = seen.Seen()
    known.wrote(A, meta("1"))
    known.told(A, meta("2"))
    assert known.recent(A) is None


def test_an_existence_check_counts_once_and_not_for_long() -> None:
    clock = Clock()
    known = seen.Seen(clock)
    known.looked(A, meta("1"))
    assert known.etag(A) is None
    assert known.take_look(A)[0]
    assert not known.take_look(A)[0]
    known.looked(A, None)
    clock.now = 60
    assert not known.take_look(A)[0]


def test_a_folder_is_forgotten_with_its_objects_only() -> None:
    known = seen.Seen()
    for key in ("f/a", "f", "fa"):
        known.told(paths.KeyPlace("b", key), meta("1"))
    known.forget_below("b", "f/")
    assert [known.etag(paths.KeyPlace("b", key)) for key in ("f/a", "f", "fa")] == [None, "1", "1"]


def test_memory_is_bounded() -> None:
    known = seen.Seen()
    for number in range(seen._MAX_OBJECTS + 10):
        known.told(paths.KeyPlace("b", str(number)), meta("1"))
    assert len(known._known) == seen._MAX_OBJECTS
    assert known.etag(paths.KeyPlace("b", "0")) is None
