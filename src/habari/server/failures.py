"""Turns the errors of Habari into those that Jupyter's handlers show."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from tornado import web

from habari.core import errors

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ContentsError(web.HTTPError):
    """An error with a sentence for the user.

    Attributes:
        code: What the object store called it, or Habari's own code.
    """

    def __init__(self, status: int, message: str, code: str) -> None:
        """Keep the sentence as it is."""
        super().__init__(status, message)
        self.message = message
        self.code = code

    @property
    def log_message(self) -> str | None:
        """The sentence; Tornado would double each `%`, and Jupyter's handler would show that."""
        return self.message

    @log_message.setter
    def log_message(self, value: str | None) -> None:
        self.message = value or ""


def of(error: errors.PublicError) -> ContentsError:
    """Return the error for Jupyter's handlers."""
    return ContentsError(error.status, str(error), error.code)


def mapped(method: Callable[_P, Coroutine[Any, Any, _T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Let a coroutine raise Jupyter's errors instead of ours."""

    @functools.wraps(method)
    async def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await method(*args, **kwargs)
        except errors.PublicError as exc:
            raise of(exc) from exc

    return wrapper
