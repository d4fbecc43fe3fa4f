"""API keys: a server knows only their hash. Needs the standard library only."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

__all__ = ["NO_KEY", "is_authorised"]

NO_KEY = "the API key is missing or wrong. Send the header 'Authorization: Bearer KEY'"


def is_authorised(headers: Mapping[str, str], key_hash: str) -> bool:
    """Tells whether a request carries the key, as `Authorization: Bearer KEY` or as `x-api-key: KEY`.

    Args:
        headers: With names in lower case, or of a kind that finds them so.
        key_hash: SHA-256 of the key, as hexadecimal digits.
    """
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = headers.get("x-api-key", "")
    # surrogatepass: what is no text is no key either, and must not fail.
    given = hashlib.sha256(key.strip().encode(errors="surrogatepass")).hexdigest()
    return hmac.compare_digest(given, key_hash.strip().lower())
