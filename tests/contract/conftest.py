"""The tree's fixtures for the suite over home and buckets."""

from tree_fixtures import corner, home, real_bucket, real_if_wanted, strict

__all__ = ["corner", "home", "real_bucket", "real_if_wanted", "strict"]
