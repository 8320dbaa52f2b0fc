from __future__ import annotations

import os
from concurrent import futures
from pathlib import Path

import pytest

from habari.local import homes


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives homes ids of their own")
def test_homes_made_at_once_belong_to_different_ids(tmp_path: Path) -> None:
    slugs = [f"user{n}" for n in range(16)]
    with futures.ThreadPoolExecutor(len(slugs)) as pool:
        for _ in range(5):
            made = list(pool.map(lambda slug: homes.prepare(tmp_path, slug, sandboxed=True), slugs))
            assert len({home.uid for home in made}) == len(slugs)
            for home in made:
                assert home.path.stat().st_uid == home.uid
                os.chown(home.path, 0, 0)
