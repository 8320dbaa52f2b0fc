"""The errors of Habari; every part raises these, and maps foreign errors to them at its boundary.

::

    HabariError
    ├── PublicError            its text may be shown to a user
    │   ├── InvalidInputError      400
    │   ├── NotAuthenticatedError  401
    │   ├── NotPermittedError      403
    │   ├── NotFoundError          404
    │   ├── ConflictError          409
    │   └── UnavailableError       503, temporary: try again after `delay_s`
    └── ConfigError            a declaration, folder or port that an operator must mend; exit status 2
"""

from __future__ import annotations


class HabariError(Exception):
    """Base class of every error that Habari raises itself."""


class PublicError(HabariError):
    """An error whose text may reach a user: it holds no key, no token and no stack trace."""

    status: int = 500
    code: str = "internal_error"


class InvalidInputError(PublicError):
    """What was asked cannot be meant: a name, a path or a value outside its rules."""

    status = 400
    code = "invalid_input"


class NotAuthenticatedError(PublicError):
    """No token, or one that nobody vouches for."""

    status = 401
    code = "not_authenticated"


class NotPermittedError(PublicError):
    """The caller is known and may not do this."""

    status = 403
    code = "not_permitted"


class NotFoundError(PublicError):
    """The thing named does not exist, or the caller may not know that it does."""

    status = 404
    code = "not_found"


class ConflictError(PublicError):
    """The state has changed, or forbids this: a taken name, another subject under a known name, a lost race."""

    status = 409
    code = "conflict"


class UnavailableError(PublicError):
    """Something needed does not answer now; the same request may succeed later.

    Args:
        message: What failed, on which object, and what to do.
        delay_s: Seconds after which a new try is sensible.
    """

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, delay_s: float = 5.0) -> None:
        """Keep the message and the delay."""
        super().__init__(message)
        self.delay_s = delay_s


class ConfigError(HabariError):
    """Something only the operator can mend; the command line prints it as one sentence and exits with status 2."""
