"""Keyed pseudonyms: what stands for a platform's user ids and event ids on disk."""

import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from pathlib import Path

from shopcast_domain.events import Account
from shopcast_gateway.errors import StartupError

KEY_BYTES = 32
PSEUDONYM_BYTES = 16


class Pseudonyms:
    """Keyed hashes of 16 bytes. Without the key nobody gets an id back, not even by guessing it."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a pseudonym key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def of(self, account: Account) -> bytes:
        """The pseudonym of an account: HMAC-SHA256, cut to 16 bytes."""
        message = _scoped(account.platform, account.user_id)
        return hmac.digest(self._key, message, "sha256")[:PSEUDONYM_BYTES]

    def of_event(self, platform: str, event_id: str) -> bytes:
        """What stands for an event id, which may itself hold a user id: keyed BLAKE2b-128."""
        return hashlib.blake2b(
            _scoped(platform, event_id), digest_size=PSEUDONYM_BYTES, key=self._key, person=b"event"
        ).digest()

    def fingerprint(self) -> bytes:
        """16 bytes that tell this key from another without giving it away."""
        return hashlib.blake2b(
            b"", digest_size=PSEUDONYM_BYTES, key=self._key, person=b"fingerprint"
        ).digest()


def _scoped(platform: str, name: str) -> bytes:
    """Bytes no other pair has."""
    # A text that is no valid Unicode must not raise here: the error would carry the raw id.
    scope = platform.encode(errors="surrogatepass")
    return len(scope).to_bytes(4) + scope + name.encode(errors="surrogatepass")


def person_id(first_account: bytes) -> str:
    """The public id of a person, from the pseudonym of their first account.

    >>> person_id(bytes(16))
    'p_20a1b1a08a0d98e32843fa012103efbe'
    """
    return f"p_{hashlib.blake2b(first_account, digest_size=16, person=b'person').hexdigest()}"


def load_or_create_key(path: Path) -> bytes:
    """The 32-byte key kept at `path`, made on first use with mode 0600.

    Raises StartupError when the file is not a key, or others than its owner may read it.
    """
    try:
        if not path.exists():
            _create(path)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            key = file.read(KEY_BYTES + 1) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise StartupError(
            f"Cannot read or create the key file {path} ({error.strerror}): "
            "name a file in an existing folder that this user may write to."
        ) from error
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StartupError(
            f"Others than its owner may read the key file {path}: run `chmod 600` on it."
        )
    if len(key) != KEY_BYTES:
        raise StartupError(
            f"{path} is not a key file of {KEY_BYTES} bytes: restore it from a backup, "
            "or name another file to start a new directory with."
        )
    return key


def _create(path: Path) -> None:
    """Write a key beside `path`, then link it into place: nobody ever sees half a key."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # O_EXCL, 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        pass  # another process was first: its key counts
    finally:
        Path(draft).unlink()
