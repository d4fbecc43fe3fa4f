"""API keys: a server knows only their hashes. Needs the standard library only."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from medimg.errors import ConfigError
from medimg.key_file import Key, KeyFile, hash_of
from medimg.serving.refused import Refused

__all__ = ["NO_KEY", "Keys", "key_in"]

NO_KEY = "the API key is missing or wrong. Send the header 'Authorization: Bearer KEY'"


def key_in(headers: Mapping[str, str]) -> str:
    """Returns the key that a request carries, as `Authorization: Bearer KEY` or as `x-api-key: KEY`; "": none.

    Args:
        headers: With names in lower case, or of a kind that finds them so.
    """
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = headers.get("x-api-key", "")
    return key.strip()


class Keys:
    """Which keys are good now.

    Args:
        keys: Those that there are.
        file: Where they are read from, anew whenever it changes; None: they stay as they are.
        clock: Returns the seconds since 1970.
    """

    def __init__(
        self, keys: Iterable[Key] = (), *, file: Path | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._keys = tuple(keys)
        self._file = file
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None

    @classmethod
    def of_file(cls, path: Path) -> Keys:
        """Returns the keys of a file, as `medimg.key_file.KeyFile` writes it.

        Raises:
            ConfigError: It is missing or damaged.
        """
        found = cls(file=path)
        found._seen = _state(path)
        found._keys = KeyFile(path).read()
        return found

    @classmethod
    def of_hashes(cls, hashes: str) -> Keys:
        """Returns keys that are known by their hashes alone, with commas between them; no rate limit holds for them.

        Raises:
            ConfigError: One is no SHA-256 in hexadecimal digits.
        """
        found = [text.strip().lower() for text in hashes.split(",") if text.strip()]
        if not all(len(text) == 64 and not text.strip("0123456789abcdef") for text in found):
            raise ConfigError("the hash of a key has 64 hexadecimal digits: printf %s KEY | sha256sum")
        return cls(Key(text[:8], "", text, 0.0, limited=False) for text in found)

    def find(self, key: str) -> Key | None:
        """Returns what is known of a key that is good now; None: there is no such key, or it has ended.

        It takes as long for a key that has ended as for one that never was.

        Raises:
            Refused: 503: the file of keys cannot be read, so nobody is let in.
        """
        self._read()
        given, found = hash_of(key), None
        for known in self._keys:
            if hmac.compare_digest(given, known.hash):
                found = known
        return found if found is not None and found.is_valid(self._clock()) else None

    def get(self, id: str) -> Key | None:
        """Returns a key that is good now by its id; None: there is none.

        Raises:
            Refused: As `find`.
        """
        self._read()
        return next((key for key in self._keys if key.id == id and key.is_valid(self._clock())), None)

    def _read(self) -> None:
        if self._file is None:
            return
        try:
            state = _state(self._file)
            if state != self._seen:
                self._keys, self._seen = KeyFile(self._file).read(), state
        except ConfigError:
            # The change may have been a revocation: rather nobody than one who was turned away.
            raise Refused(503, "the keys of this endpoint cannot be read", headers={"Retry-After": "10"}) from None


def _state(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"{path} is no file of keys ({error.strerror})") from None
    return found.st_mtime_ns, found.st_size, found.st_ino
