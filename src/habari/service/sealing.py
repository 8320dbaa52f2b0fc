"""Seals users' secret keys for the database, with keys that are kept outside it."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import fernet

from habari.core import errors


class Sealer:
    """Seals with the newest key, opens with any.

    Args:
        keys: Fernet keys, newest first.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        """Keep the keys."""
        self._fernet = fernet.MultiFernet([fernet.Fernet(key) for key in keys])

    def seal(self, text: str) -> bytes:
        """Return the text in a form that only a holder of a key can read."""
        return self._fernet.encrypt(text.encode())

    def open(self, sealed: bytes) -> str:
        """Return the text that was sealed.

        Raises:
            ConfigError: If none of the keys sealed it.
        """
        try:
            return self._fernet.decrypt(sealed).decode()
        except fernet.InvalidToken as error:
            msg = (
                "A user's key in the database was sealed with an encryption key that is not in the secret "
                "encryption_keys; put that key back in the file, after the newest one."
            )
            raise errors.ConfigError(msg) from error
