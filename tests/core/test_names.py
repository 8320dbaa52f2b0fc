from __future__ import annotations

import itertools
import re

import pytest

from habari.core import errors, names

_HOSTILE = [
    *("a.b", "a_b", "a-b", "a--b", "ä", "a", "A", "Ada", "ada", "ada ", " ada", "ada\n", "ADA", "-", "--", ".", ".."),
    *(
        "/",
        "a/b",
        "user-ada",
        "admin",
        "everyone",
        "x",
        "x-",
        "-x",
        "ß",
        "ss",
        "İ",
        "i̇",
        "ﬁ",
        "fi",
        "1",
        "01",
        "*",
        "?",
    ),
    *(
        "ada@example.org",
        "ada@example.com",
        "ada+1@example.org",
        "日本",
        "日本語",
        "🦆",
        "\u202eada",
        "a\x00b",
        "\ud800",
    ),
    *("*", "?", "🦆", "a" * 40, "a" * 41, "a" * 42, "a" * 255),
]


def test_a_plain_name_is_its_own_slug() -> None:
    for name in ("ada", "ada-lovelace", "a1", "7", "a" * 40):
        assert names.slug(name) == name


@pytest.mark.parametrize("name", _HOSTILE)
def test_every_slug_is_fit_for_kubernetes_and_s3(name: str) -> None:
    slug = names.slug(name)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", slug)
    assert len(slug) <= names.MAX_SLUG_LENGTH
    assert len(names.personal_bucket(name, prefix="a" * 11 + "-")) <= 63


def test_no_two_names_meet_in_one_slug() -> None:
    every = [*_HOSTILE, *("".join(letters) for letters in itertools.product("aA.-_ä", repeat=4))]
    assert len({names.slug(name) for name in every}) == len(set(every))


def test_the_slug_of_another_name_is_not_reached_by_typing_it() -> None:
    taken = names.slug("a.b")
    assert names.slug(taken) != taken


def test_slugs_stay_what_they_were() -> None:
    assert names.slug("a.b") == "a-b--2e7336dc8e"
    assert names.slug("ä").startswith("x--")


@pytest.mark.parametrize("name", ["", "a" * 256])
def test_a_name_that_no_hub_has_is_refused(name: str) -> None:
    with pytest.raises(errors.InvalidInputError, match=rf"has {len(name)} characters; expected 1 to 255\.$"):
        names.slug(name)


def test_personal_names_carry_the_prefix() -> None:
    assert names.personal_bucket("ada") == "user-ada"
    assert names.personal_bucket("ada", prefix="t1-") == "t1-user-ada"
    assert names.identity("admin", prefix="t1-") == "t1-user-admin"
    assert names.everyone_group(prefix="t1-") == "t1-everyone"


def test_a_common_bucket_never_takes_a_personal_name() -> None:
    assert names.common_bucket("lake", prefix="t1-") == "t1-lake"
    with pytest.raises(errors.InvalidInputError, match=r"'user-ada' starts with 'user-'.*choose another name\.$"):
        names.common_bucket("user-ada")


@pytest.mark.parametrize("name", ["", "ab", "-ab", "ab-", "A-lake", "a.b", "a_b", "a" * 64, "läke", "lake\n"])
def test_a_common_bucket_has_a_name_that_s3_takes(name: str) -> None:
    with pytest.raises(errors.InvalidInputError, match="is not valid in S3: expected 3 to 63 lower-case letters"):
        names.common_bucket(name)
