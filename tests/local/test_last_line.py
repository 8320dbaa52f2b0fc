from __future__ import annotations

import tracemalloc
from pathlib import Path

from habari.local import spawner


def test_a_log_of_gigabytes_costs_the_hub_a_few_kilobytes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(2 * 1024**3)
        file.seek(0, 2)
        file.write(b"\nNo keys for ada.\n")
    tracemalloc.start()
    try:
        assert spawner.last_line(log) == "No keys for ada."
        assert tracemalloc.get_traced_memory()[1] < 2 * 1024**2
    finally:
        tracemalloc.stop()


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert spawner.last_line(tmp_path / "none") == ""
