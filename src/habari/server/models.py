"""Jupyter's contents models for what lies in buckets, and the bytes that a model stands for.

Shape: https://jupyter-server.readthedocs.io/en/latest/developers/contents.html#data-model
"""

# mypy: allow-untyped-calls
# Jupyter's managers and nbformat have no types.

from __future__ import annotations

import base64
import binascii
import datetime
import functools
import mimetypes
import posixpath
from typing import Any, TypedDict

import nbformat

from habari.core import errors
from habari.server import paths, s3, s3_xml

HASH_ALGORITHM = "etag"
"""What `hash_algorithm` says: the hash is the store's ETag, so no object is read to compute one."""

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
"""Date of a folder that has none: Jupyter's handler and JupyterLab refuse an answer without a date."""


class Model(TypedDict, total=False):
    """A contents model."""

    name: str
    path: str
    type: str
    writable: bool
    created: datetime.datetime | str | None
    last_modified: datetime.datetime | str | None
    mimetype: str | None
    content: Any
    format: str | None
    size: int | None
    hash: str | None
    hash_algorithm: str | None
    message: str


def folder(path: str, *, writable: bool, content: list[Model] | None = None) -> Model:
    """Return the model of a folder, with its entries where `content` is given."""
    return {
        "name": paths.name(path),
        "path": path,
        "type": "directory",
        "writable": writable,
        "created": EPOCH,
        "last_modified": EPOCH,
        "mimetype": None,
        "content": content,
        "format": None if content is None else "json",
        "size": None,
        "hash": None,
        "hash_algorithm": None,
    }


def folder_entry(path: str, name: str, *, writable: bool) -> Model:
    """Return a folder as a listing shows it: without a date, for a prefix has none."""
    return {
        "name": name,
        "path": f"{path}/{name}",
        "type": "directory",
        "writable": writable,
        "created": None,
        "last_modified": None,
        "mimetype": None,
        "content": None,
        "format": None,
        "size": None,
        "hash": None,
        "hash_algorithm": None,
    }


def file_entry(path: str, name: str, entry: s3_xml.Entry, *, writable: bool) -> Model:
    """Return an object as a listing shows it; it carries no hash, for no save may rest on a listing."""
    notebook = name.endswith(".ipynb")
    return {
        "name": name,
        "path": f"{path}/{name}",
        "type": "notebook" if notebook else "file",
        "writable": writable,
        "created": entry.modified,
        "last_modified": entry.modified,
        "mimetype": None if notebook else _mimetype(posixpath.splitext(name)[1]),
        "content": None,
        "format": None,
        "size": entry.size,
        "hash": None,
        "hash_algorithm": None,
    }


def file(path: str, kind: str, meta: s3.Meta, *, writable: bool) -> Model:
    """Return the model of an object without its content; its hash is the ETag."""
    return {
        "name": paths.name(path),
        "path": path,
        "type": kind,
        "writable": writable,
        "created": meta.modified,
        "last_modified": meta.modified,
        "mimetype": None if kind == "notebook" else mimetypes.guess_type(paths.name(path), strict=False)[0],
        "content": None,
        "format": None,
        "size": meta.size,
        "hash": meta.etag or None,
        "hash_algorithm": HASH_ALGORITHM if meta.etag else None,
    }


def kind_of(path: str, wanted: str | None) -> str:
    """Return the type with which to answer for an object."""
    if wanted in {"file", "notebook"}:
        return str(wanted)
    return "notebook" if path.endswith(".ipynb") else "file"


def decode(body: bytes, wanted: str | None, what: str) -> tuple[str, str]:
    """Return a file's content and its format.

    Args:
        body: The bytes.
        wanted: `text`, `base64`, or None for text where it is UTF-8.
        what: Name for the error.

    Raises:
        InvalidInputError: If text is wanted and the bytes are not UTF-8.
    """
    if wanted != "base64":
        try:
            return body.decode("utf-8"), "text"
        except UnicodeDecodeError as exc:
            if wanted == "text":
                msg = f"{what} is not UTF-8 encoded; open it as a binary file or download it."
                raise errors.InvalidInputError(msg) from exc
    return base64.b64encode(body).decode("ascii"), "base64"


def encode(content: Any, content_format: str | None, what: str) -> bytes:
    """Return the bytes that a file model's content stands for.

    Raises:
        InvalidInputError: If the content is not what its format says.
    """
    if not isinstance(content, str) or content_format not in {"text", "base64"}:
        msg = f"{what} was not saved: expected a content with the format 'text' or 'base64', found {content_format!r}."
        raise errors.InvalidInputError(msg)
    try:
        return content.encode("utf-8") if content_format == "text" else base64.b64decode(content.encode("ascii"))
    except (UnicodeEncodeError, binascii.Error) as exc:
        msg = f"{what} was not saved: its content is not valid {content_format} ({exc})."
        raise errors.InvalidInputError(msg) from exc


def read_notebook(body: bytes, what: str) -> tuple[Any, dict[str, Any]]:
    """Return a notebook and what its validation found.

    Raises:
        InvalidInputError: If the bytes are no notebook.
    """
    found: dict[str, Any] = {}
    try:
        return nbformat.reads(body.decode("utf-8"), as_version=4, capture_validation_error=found), found
    except Exception as exc:  # nbformat raises whatever a broken document makes it raise
        msg = f"{what} is not a notebook that can be read ({type(exc).__name__}: {str(exc)[:200]}); open it as text."
        raise errors.InvalidInputError(msg) from exc


def write_notebook(notebook: Any) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of a notebook, without the marks of trust, and what its validation found."""
    found: dict[str, Any] = {}
    text = nbformat.writes(notebook, version=nbformat.NO_CONVERT, capture_validation_error=found)
    return (text if text.endswith("\n") else text + "\n").encode("utf-8"), found


def content_type(name: str) -> str:
    """Return the Content-Type to store for a file of that name."""
    if name.endswith(".ipynb"):
        return "application/x-ipynb+json"
    guessed, encoding = mimetypes.guess_type(name, strict=False)
    if encoding is not None:
        return "application/gzip" if encoding == "gzip" else "application/octet-stream"
    return guessed or "application/octet-stream"


@functools.lru_cache(maxsize=1024)
def _mimetype(extension: str) -> str | None:
    return mimetypes.guess_type(f"x{extension}", strict=False)[0]
