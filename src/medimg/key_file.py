"""The keys of an endpoint in a JSON file, which holds their hashes and never a key. Needs the standard library only."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from medimg.errors import AlreadyExistsError, ConfigError, NotFoundError, did_you_mean
from medimg.home import atomic_write, locked

__all__ = ["Key", "KeyFile", "hash_of"]

_KEY_BYTES = 32
_DAY = 86_400.0
_MOST_NAME = 80  # characters


def hash_of(key: str) -> str:
    """Returns what is kept of a key: SHA-256, as hexadecimal digits.

    A fast hash without a salt is right here: a key is 32 random bytes, never a word that someone chose, so that there
    is nothing to guess faster than by trying 2^256 keys, and no table to look it up in.
    """
    # surrogatepass: what is no text is no key either, and must not fail.
    return hashlib.sha256(key.strip().encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Key:
    """What is known of a key.

    Attributes:
        id: How it is called in commands and logs; it tells nothing of the key.
        name: Who it is for, in the owner's words.
        hash: See `hash_of`.
        created: Seconds since 1970, UTC, as the two below.
        expires: When it ends by itself; None: never.
        revoked: When it was revoked; None: it was not.
        limited: Whether the rate limit holds for it. The owner's own key is not limited: the machine is theirs.
        successor: Id of the key that was made in its place; "" where none was.
    """

    id: str
    name: str
    hash: str = field(repr=False)
    created: float
    expires: float | None = None
    revoked: float | None = None
    limited: bool = True
    successor: str = ""

    def is_valid(self, now: float) -> bool:
        """Tells whether it lets anyone in at that time."""
        return self.revoked is None and (self.expires is None or now < self.expires)


def _ending(key: Key, ends: float) -> Key:
    return replace(key, expires=ends if key.expires is None else min(ends, key.expires))


class KeyFile:
    """A file of keys. Several processes may change it at once; each change is whole, and a running server sees it.

    Args:
        path: The file; `add` makes it.
        own: The file with the key that programs of this machine ask with, where there is one. Rotating that key
            rewrites it.
        of: What the keys open, such as "the endpoint 'chest'", where the file is made and deleted with that: then no
            method makes it, and all raise a `NotFoundError` where it is gone.
        clock: Returns the seconds since 1970.
    """

    def __init__(
        self, path: Path, *, own: Path | None = None, of: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self.own = own
        self._of = of
        self._clock = clock

    def __repr__(self) -> str:
        try:
            keys = self.read()
        except (ConfigError, NotFoundError) as error:
            return f"KeyFile({str(self.path)!r}: {error})"
        valid = sum(key.is_valid(self._clock()) for key in keys)
        return f"KeyFile({str(self.path)!r}, {len(keys)} keys, {valid} valid)"

    def read(self) -> tuple[Key, ...]:
        """Returns all keys, the revoked and expired ones too, in the order of their creation.

        Raises:
            ConfigError: The file is missing or damaged.
        """
        if self._of and not self.path.exists():
            raise self._gone()
        try:
            return tuple(Key(**fields) for fields in json.loads(self.path.read_bytes())["keys"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.path} is no file of keys ({type(error).__name__}). Make one: "
                f"medimg keys add {self.path} --name NAME"
            ) from None

    def add(self, name: str, *, expires_days: float | None = None, limited: bool = True) -> tuple[str, Key]:
        """Returns a new key, which is shown nowhere else, and what is kept of it.

        Args:
            name: Who it is for.
            expires_days: When it ends by itself; None: never.
            limited: Whether the rate limit holds for it.

        Raises:
            AlreadyExistsError: A valid key has that name.
            ConfigError: The name is empty or too long.
        """
        if not name.strip() or len(name) > _MOST_NAME or not name.isprintable():
            raise ConfigError(f"the name of a key has 1 to {_MOST_NAME} printable characters, unlike {name[:100]!r}")
        with self._changing():
            keys = self.read() if self._of or self.path.exists() else ()
            now = self._clock()
            if any(key.name == name and key.is_valid(now) for key in keys):
                raise AlreadyExistsError(f"there is a valid key named {name!r}. Rotate it, or take another name")
            secret, made = self._made(name, expires_days, limited)
            self._write((*keys, made))
        return secret, made

    def rotate(self, which: str, *, grace_hours: float = 24.0) -> tuple[str, Key]:
        """Returns a new key in place of a valid one, which ends after a time in which both are good.

        Args:
            which: Id of the old key, or its name.
            grace_hours: How long the old key stays good; 0: it ends now.

        Raises:
            NotFoundError: There is no such key, or it is no longer valid.
            ConfigError: It has a successor already.
        """
        with self._changing():
            keys = self.read()
            old = self._valid(keys, which)
            if old.successor:
                raise ConfigError(
                    f"{old.id!r} was rotated already, and is good until its time is up. Rotate its successor, "
                    f"{old.successor!r}, or end it now: medimg keys revoke ENDPOINT {old.id}"
                )
            days = None if old.expires is None else (old.expires - old.created) / _DAY
            secret, made = self._made(old.name, days, old.limited)
            ends = self._clock() + grace_hours * 3600
            # Also those before it that are still good: a grace of 0 leaves none but the new one.
            others = {
                key.id: _ending(key, ends) for key in keys if key.name == old.name and key.is_valid(self._clock())
            }
            others[old.id] = replace(others[old.id], successor=made.id)
            if self.own is not None and self.is_own(old):
                # The server's file first: whoever reads the new key must be let in with it. The old one ends last, so
                # that programs have a good key wherever this is cut off.
                self._write((*keys, made))
                atomic_write(self.own, secret, private=True, parents=not self._of)
            self._write((*(others.get(key.id, key) for key in keys), made))
        return secret, made

    def revoke(self, which: str) -> tuple[Key, ...]:
        """Ends a key, and the sessions begun with it, at once; returns what was ended.

        Args:
            which: Its id; or a name, which ends all keys of that name: after a rotation two are good.

        Raises:
            NotFoundError: There is no such key, or it is no longer valid.
            ConfigError: It is the key that programs of this machine ask with.
        """
        with self._changing():
            keys = self.read()
            newest = self._valid(keys, which)
            now = self._clock()
            ended = {
                key.id: replace(key, revoked=now) for key in keys if key.is_valid(now) and which in (key.id, key.name)
            }
            if any(self.is_own(key) for key in ended.values()):
                raise ConfigError(
                    f"{newest.id!r} is the key that endpoint.predict uses on this machine. Give it a successor, which "
                    "ends it at once: medimg keys rotate ENDPOINT --grace-hours 0"
                )
            self._write(ended.get(key.id, key) for key in keys)
        return tuple(ended.values())

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            with locked(self.path.with_name(f".{self.path.name}.lock"), parents=not self._of):
                yield
        except FileNotFoundError:
            if self._of:
                raise self._gone() from None
            raise

    def _gone(self) -> NotFoundError:
        return NotFoundError(f"{self._of} was deleted, and its keys with it")

    def _made(self, name: str, days: float | None, limited: bool) -> tuple[str, Key]:
        secret, now = secrets.token_urlsafe(_KEY_BYTES), self._clock()
        expires = None if days is None else now + days * _DAY
        return secret, Key(secrets.token_hex(4), name, hash_of(secret), now, expires, limited=limited)

    def _valid(self, keys: tuple[Key, ...], which: str) -> Key:
        now = self._clock()
        valid = [key for key in keys if key.is_valid(now)]
        # After a rotation two keys have one name for a while: that of this machine, or the newest, is meant.
        named = [key for key in valid if which in (key.id, key.name)]
        found = next((key for key in named if self.is_own(key)), named[-1] if named else None)
        if found is None:
            known = [word for key in valid for word in (key.id, key.name)]
            raise NotFoundError(f"there is no valid key {which!r}.{did_you_mean(which, known)}")
        return found

    def is_own(self, key: Key) -> bool:
        """Tells whether it is the key that programs of this machine ask with."""
        try:
            return self.own is not None and hash_of(self.own.read_text()) == key.hash
        except FileNotFoundError:
            return False

    def _write(self, keys: Iterable[Key]) -> None:
        content = {"keys": [asdict(key) for key in keys]}
        atomic_write(self.path, json.dumps(content, indent=1), private=True, parents=not self._of)
