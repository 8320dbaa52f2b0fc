"""DuckDB's own configuration, for what cannot be set by the environment.

DuckDB's httpfs reads keys, region, endpoint and TLS from the variables that `habari.server.environment` sets,
and lacks two things: the extension itself, which DuckDB would download at first use, and path-style addresses.
So `python -m habari.server.clients` gives the user's home

- a link to the extension that the wheel `duckdb-extension-httpfs` brings, where DuckDB looks for extensions, and
- a persistent secret `habari` that says `url_style 'path'` and nothing else: it holds no key, so it never grows
  old. Its scope `s3:` is shorter than any that DuckDB gives by itself, so each secret of the user's comes first.

It never touches a file that the user made. It runs in a process of its own, because DuckDB is large.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import pathlib
import sys

_log = logging.getLogger(__name__)

_EXTENSION = "httpfs.duckdb_extension"
_SECRET = "habari"  # noqa: S105 - its name


def duckdb_is_configured(home: pathlib.Path) -> bool:
    """Return whether nothing is left to do for the DuckDB of this Python and this home; reads file names only."""
    try:
        version = importlib.metadata.version("duckdb")
    except importlib.metadata.PackageNotFoundError:
        return True
    installed = any(each.exists() for each in _extensions(home).glob(f"v{version}/*/{_EXTENSION}"))
    return _secret_file(home).exists() and (installed or _wheel() is None)


def configure_duckdb(home: pathlib.Path) -> None:
    """Give DuckDB what it lacks to open `s3://` in this home; safe to repeat, and to run twice at once.

    Raises:
        OSError: If the home cannot be written.
        duckdb.Error: If DuckDB refuses.
    """
    import duckdb  # noqa: PLC0415 - large, and absent from some environments

    with duckdb.connect() as connection:
        wheel = _wheel()
        row = connection.sql("SELECT library_version, platform FROM pragma_version(), pragma_platform()").fetchone()
        if wheel is not None and row is not None and (file := wheel / row[0] / _EXTENSION).exists():
            _link(_extensions(home) / row[0] / row[1] / _EXTENSION, file)
        if not _secret_file(home).exists():
            connection.sql(f"CREATE PERSISTENT SECRET {_SECRET} (TYPE s3, URL_STYLE 'path', SCOPE 's3:')")


def _extensions(home: pathlib.Path) -> pathlib.Path:
    return home / ".duckdb" / "extensions"


def _secret_file(home: pathlib.Path) -> pathlib.Path:
    return home / ".duckdb" / "stored_secrets" / f"{_SECRET}.duckdb_secret"


def _wheel() -> pathlib.Path | None:
    spec = importlib.util.find_spec("duckdb_extension_httpfs")
    if spec is None or spec.origin is None:
        return None
    return pathlib.Path(spec.origin).parent / "extensions"


def _link(link: pathlib.Path, file: pathlib.Path) -> None:
    """Make `link` lead to `file`, unless a file is there already; a link that leads nowhere is replaced."""
    if link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    with contextlib.suppress(FileExistsError):  # another process was faster
        link.symlink_to(file)


if __name__ == "__main__":
    try:
        configure_duckdb(pathlib.Path.home())
    except Exception as error:  # noqa: BLE001 - DuckDB's errors have no common base that can be named without it
        _log.warning("DuckDB was not configured for s3:// in this home: %s", error)
        sys.exit(1)
