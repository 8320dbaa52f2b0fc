"""Sign-in with GitHub through OAuthenticator, as habari.yaml declares it; GitHub Enterprise servers too."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oauthenticator.github import GitHubOAuthenticator

from habari.core import config, errors
from habari.hub import identity


def configure(c: Any, sign_in: config.SignIn, check: identity.Check) -> None:
    """Let in the administrators, the allowed users and the members of the allowed organizations, nobody else.

    Raises:
        ConfigError: If the client secret cannot be read, or others could read it.
    """
    declared = sign_in.github
    if declared is None:  # the declaration is checked when it is read
        return
    issuer = declared.url.rstrip("/")
    c.JupyterHub.authenticator_class = GitHubOAuthenticator
    c.GitHubOAuthenticator.client_id = declared.client_id
    c.GitHubOAuthenticator.client_secret = read_client_secret(Path(declared.client_secret_file))
    c.GitHubOAuthenticator.github_url = issuer
    c.GitHubOAuthenticator.github_api = declared.api_url.rstrip("/")
    c.GitHubOAuthenticator.allowed_organizations = set(declared.allowed_organizations)
    # Membership that is not public is seen with this scope alone; without organizations nothing is asked for.
    c.GitHubOAuthenticator.scope = ["read:org"] if declared.allowed_organizations else []
    c.GitHubOAuthenticator.allowed_users = set(sign_in.allowed_users)
    admins = frozenset(name.lower() for name in sign_in.admin_users)
    c.Authenticator.post_auth_hook = identity.make_hook(lambda result: bind(issuer, result), check, admins)
    c.GitHubOAuthenticator.refresh_user_hook = _refresh
    # A token that somebody made is not refreshed: without a new sign-in it launches nothing.
    c.Launch.longest_sign_in = float(identity.SESSION_S)


def bind(issuer: str, authentication: Mapping[str, Any]) -> identity.Binding:
    """Return who signed in: GitHub's number of the user, which a rename does not change. Its token is dropped.

    Raises:
        UnavailableError: If GitHub did not say the number.
    """
    number = (authentication["auth_state"] or {}).get("github_user", {}).get("id")
    if not isinstance(number, int):
        msg = f"GitHub did not tell the number of the user {authentication['name']!r}. Try to sign in again."
        raise errors.UnavailableError(msg)
    return identity.make_binding(issuer, str(number))


def read_client_secret(file: Path) -> str:
    """Return the OAuth app's secret.

    Raises:
        ConfigError: If the file cannot be read, is empty, or other users of the machine may read it.
    """
    try:
        with file.open(encoding="utf-8") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            secret = opened.read().strip()
    except OSError as error:
        msg = f"The file {file} of sign_in.github.client_secret_file cannot be read: {error.strerror}."
        raise errors.ConfigError(msg) from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        msg = f"The file {file} of sign_in.github.client_secret_file is open to everyone; run: chmod 600 {file}"
        raise errors.ConfigError(msg)
    if not secret:
        msg = f"The file {file} of sign_in.github.client_secret_file is empty; expected the OAuth app's client secret."
        raise errors.ConfigError(msg)
    return secret


async def _refresh(_authenticator: Any, _user: Any, auth_state: Mapping[str, Any] | None) -> bool:
    # GitHub's token is not kept, so nothing can be asked again: after a working day people pass by GitHub once
    # more, which checks their organizations anew and is one redirect for whoever is still signed in there.
    return identity.recent(auth_state, time.time())
