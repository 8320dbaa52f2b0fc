"""Every key has exactly one path, and every path names exactly one place."""

from __future__ import annotations

import itertools
import random

import pytest

from habari.core import errors
from habari.server import paths

SIGNS = ["", ".", "..", "∅", "▸", "a", "checkpoints", "trust", " ", "\n", "%41", "é", "e\u0301", "\\", "buckets"]


def some_keys() -> list[str]:
    """Every key of up to three signs and slashes, and longer ones at random; always the same ones."""
    short = ["".join(each) for n in (1, 2, 3) for each in itertools.product([*SIGNS, "/"], repeat=n)]
    dice = random.Random(7)  # noqa: S311 - test data
    return [*short, *("".join(dice.choices([*SIGNS, "/", "/"], k=dice.randint(4, 12))) for _ in range(5000))]


def test_every_key_has_one_path_and_comes_back() -> None:
    keys = sorted(set(some_keys()) - {""})
    found: dict[str, paths.KeyPlace] = {}
    for key in keys:
        for folder in (False, True):
            place = paths.KeyPlace("b", key, folder=folder)
            path = paths.unparse(place)
            assert paths.parse(path) == place, key
            assert path not in found, (key, found[path])
            found[path] = place
            segments = path.split("/")
            assert not {"", ".", "..", "checkpoints", "trust"} & set(segments), path
            assert paths.parse(f"/{path}/") == place


def test_every_path_names_one_place() -> None:
    for segments in itertools.product([each for each in SIGNS if each not in {"", ".", ".."}], repeat=3):
        path = "/".join(("buckets", "b", *segments))
        place = paths.parse(path)
        assert paths.parse(paths.unparse(place)) == place


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("a//b", "a/∅/b"),
        ("/a", "∅/a"),
        ("a/", "a/∅"),
        ("./x", "∅./x"),
        ("x/../y", "x/∅../y"),
        ("∅", "∅∅"),
        ("∅a", "∅a"),
        ("a▸", "a▸▸"),
        ("run/checkpoints", "run/∅checkpoints"),
        ("a\\b", "a\\b"),
    ],
)
def test_what_people_see(key: str, shown: str) -> None:
    assert paths.unparse(paths.KeyPlace("lake", key)) == f"buckets/lake/{shown}"


def test_a_folder_beside_an_object_of_its_name_is_told_from_it() -> None:
    assert paths.shown("a", is_folder=True, has_twin=True) == "a▸"
    assert paths.shown("a", is_folder=True) == "a"
    assert paths.shown("checkpoints", is_folder=True) == "checkpoints▸"
    assert paths.parse("buckets/b/a▸") == paths.KeyPlace("b", "a", folder=True)


@pytest.mark.parametrize("path", ["buckets/b//x", "buckets/b/./x", "buckets/b/../x", "buckets/b/x/.."])
def test_a_path_that_is_none_is_refused_with_a_sentence(path: str) -> None:
    with pytest.raises(errors.InvalidInputError, match="which a path of the tree cannot hold; write '∅"):
        paths.parse(path)


@pytest.mark.parametrize("real", ["buckets", "buckets (home)", "buckets (home) (home)", "a", "buckets2", " (home)"])
def test_a_real_folder_named_buckets_stays_reachable(real: str) -> None:
    for path in (real, f"{real}/x"):
        shown = paths.unparse(paths.HomePlace(path))
        assert paths.parse(shown) == paths.HomePlace(path)
        assert shown.split("/")[0] != "buckets"


def test_names_of_the_home_are_one_to_one() -> None:
    names = ["buckets", "buckets (home)", "buckets (home) (home)", "x (home)", "x", "buckets(home)"]
    assert len({paths.unparse(paths.HomePlace(name)) for name in names}) == len(names)
    assert paths.parse("x (home)") == paths.HomePlace("x (home)")


def test_roots() -> None:
    assert paths.parse("") == paths.parse("/") == paths.HomePlace("")
    assert paths.parse("buckets") == paths.BucketsPlace()
    assert paths.unparse(paths.BucketsPlace()) == "buckets"
    root = paths.parse("buckets/trust/")
    assert root == paths.parse("buckets/∅trust") == paths.KeyPlace.root("trust")
    assert paths.unparse(root) == "buckets/∅trust"
    assert (root.prefix, root.is_root) == ("", True)
    inside = paths.parse("buckets/b/▸")
    assert (inside.is_root, inside.prefix) == (False, "/")
