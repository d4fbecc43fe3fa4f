"""The login at Azure, asked again where its service does not answer: that is no refusal."""

from __future__ import annotations

import random
import time
from typing import Any

from medimg.backends.azureml.errors import is_offline
from medimg.errors import MissingExtraError

try:
    from azure.core.credentials import AccessToken
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import DefaultAzureCredential
except ImportError as error:
    raise MissingExtraError("the AzureML backend", "azureml") from error

__all__ = ["Login"]

_ATTEMPTS = 10


class Login:
    """A TokenCredential around another one.

    Args:
        credential: Any TokenCredential; None: what the environment, a managed identity or `az login` gives, without a
            browser.
        attempts: How often its service is asked.
    """

    def __init__(self, credential: Any = None, *, attempts: int = _ATTEMPTS) -> None:
        self._attempts = attempts
        self._credential = credential or DefaultAzureCredential(
            exclude_interactive_browser_credential=True, connection_timeout=10, read_timeout=60
        )

    @property
    def hasty(self) -> Login:
        """The same login, asked once: for what can be done without."""
        return Login(self._credential, attempts=1)

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """Returns a token for the scopes.

        Raises:
            ClientAuthenticationError: Nobody is signed in, or the login's service still does not answer.
        """
        for attempt in range(self._attempts):
            try:
                token: AccessToken = self._credential.get_token(*scopes, **options)
            except ClientAuthenticationError as error:
                if attempt == self._attempts - 1 or not is_offline(error):
                    raise
                time.sleep(min(0.5 * 2**attempt, 8.0) * random.uniform(0.5, 1.0))  # noqa: S311 - it is no secret
            else:
                return token
        raise AssertionError("the last attempt has raised")
