"""Keyed pseudonyms: what stands for a platform's user ids and event ids on disk.

Keys come in a ring, the newest first. What is written is written under the newest; what was written
under an older one is found under that, and an account that comes again gets its new pseudonym then.
Nobody could translate the others: the ids they stand for are not kept.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
import tempfile
from pathlib import Path

from shopcast_domain.events import Account
from shopcast_gateway.errors import StartupError

KEY_BYTES = 32
PSEUDONYM_BYTES = 16
KEY_VARIABLE = "SHOPCAST_DIRECTORY_KEY"
_MOST_KEYS = 64
_PERSON = re.compile(r"p_[0-9a-f]{32}")
_KEY = re.compile(r"[0-9a-fA-F]{64}")


class Pseudonyms:
    """Keyed hashes of 16 bytes. Without the key nobody gets an id back, not even by guessing it."""

    __slots__ = ("_keys", "newest_fingerprint")

    def __init__(self, *keys: bytes) -> None:
        """keys: of 32 bytes each, the newest first."""
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"a pseudonym key has {KEY_BYTES} bytes")
        self._keys = keys
        self.newest_fingerprint = self.fingerprints()[0]

    def __len__(self) -> int:
        return len(self._keys)

    def of(self, account: Account) -> bytes:
        """The pseudonym of an account: HMAC-SHA256, cut to 16 bytes."""
        return self.all_of(account)[0]

    def all_of(self, account: Account) -> tuple[bytes, ...]:
        """Under every key, the newest first."""
        message = _scoped(account.platform, account.user_id)
        return tuple(hmac.digest(key, message, "sha256")[:PSEUDONYM_BYTES] for key in self._keys)

    def of_event(self, platform: str, event_id: str) -> bytes:
        """What stands for an event id, which may itself hold a user id: keyed BLAKE2b-128."""
        return self.all_of_event(platform, event_id)[0]

    def all_of_event(self, platform: str, event_id: str) -> tuple[bytes, ...]:
        """Under every key, the newest first."""
        message = _scoped(platform, event_id)
        return tuple(
            hashlib.blake2b(message, digest_size=PSEUDONYM_BYTES, key=key, person=b"event").digest()
            for key in self._keys
        )

    def fingerprints(self) -> tuple[bytes, ...]:
        """16 bytes for each key that tell it from another without giving it away."""
        return tuple(
            hashlib.blake2b(
                b"", digest_size=PSEUDONYM_BYTES, key=key, person=b"fingerprint"
            ).digest()
            for key in self._keys
        )


def _scoped(platform: str, name: str) -> bytes:
    """Bytes no other pair has."""
    # A text that is no valid Unicode must not raise here: the error would carry the raw id.
    scope = platform.encode(errors="surrogatepass")
    return len(scope).to_bytes(4) + scope + name.encode(errors="surrogatepass")


def person_code(pseudonym: bytes) -> bytes:
    """The 16 bytes of the id of a person whose first account is created under this pseudonym. They
    are kept, since the pseudonym may change with the key."""
    return hashlib.blake2b(pseudonym, digest_size=16, person=b"person").digest()


def person_id(code: bytes) -> str:
    """The public id of a person.

    >>> person_id(person_code(bytes(16)))
    'p_20a1b1a08a0d98e32843fa012103efbe'
    """
    return f"p_{code.hex()}"


def code_of(person: str) -> bytes | None:
    """The 16 bytes of a public id; None when it is none."""
    return bytes.fromhex(person[2:]) if _PERSON.fullmatch(person) else None


def keys_from(text: str) -> tuple[bytes, ...]:
    """Keys as an environment variable has them: 64 hex digits each, commas between, the newest
    first. Raises StartupError."""
    keys = text.replace(" ", "").split(",")
    if not all(_KEY.fullmatch(key) for key in keys):
        raise StartupError(
            f"{KEY_VARIABLE} is no pseudonym key: give 64 hexadecimal digits, or several keys with"
            " commas between, the newest first"
        )
    return tuple(map(bytes.fromhex, keys))


def rotate(path: Path) -> int:
    """Put a new key before those at `path`, in one step; returns how many there are then. Raises
    StartupError."""
    keys = (secrets.token_bytes(KEY_BYTES), *load_keys(path))
    if len(keys) > _MOST_KEYS:
        raise StartupError(
            f"{path} holds {_MOST_KEYS} keys, which is the most: start a new directory and import"
            " the events into it"
        )
    try:
        draft = _draft(path, b"".join(keys))
        draft.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise StartupError(
            f"Cannot replace the key file {path} ({error.strerror}): this user must own it and its"
            " folder."
        ) from error
    return len(keys)


def load_or_create_keys(path: Path) -> tuple[bytes, ...]:
    """The keys kept at `path`, the newest first; a first one is made with mode 0600.

    Raises StartupError when the file holds no keys, or others than its owner may read it.
    """
    if not path.exists():
        try:
            _create(path)
        except OSError as error:
            raise _unusable(path, error) from error
    return load_keys(path)


def load_keys(path: Path) -> tuple[bytes, ...]:
    """As `load_or_create_keys`, where there is a file."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            most = KEY_BYTES * _MOST_KEYS
            content = file.read(most + 1) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise _unusable(path, error) from error
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StartupError(
            f"Others than its owner may read the key file {path}: run `chmod 600` on it."
        )
    if not content or len(content) % KEY_BYTES or len(content) > most:
        raise StartupError(
            f"{path} is not a key file of {KEY_BYTES} bytes a key: restore it from a backup, "
            "or name another file to start a new directory with."
        )
    return tuple(content[at : at + KEY_BYTES] for at in range(0, len(content), KEY_BYTES))


def out_of_order(directory: str) -> StartupError:
    """What to say where another of the keys given has replaced the first."""
    return StartupError(
        f"{directory} was last written under a key that is not the first of those given: put them"
        " in order, the newest first."
    )


def _unusable(path: Path, error: OSError) -> StartupError:
    return StartupError(
        f"Cannot read or create the key file {path} ({error.strerror}): "
        "name a file in an existing folder that this user may write to."
    )


def _create(path: Path) -> None:
    """Write a key beside `path`, then link it into place: nobody ever sees half a key."""
    draft = _draft(path, secrets.token_bytes(KEY_BYTES))
    try:
        os.link(draft, path)
        _flush(path.parent)
    except FileExistsError:
        pass  # another process was first: its key counts
    finally:
        draft.unlink()


def _draft(path: Path, content: bytes) -> Path:
    """A file of this content beside `path`, for its owner only, and on disk."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # O_EXCL, 0600
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Path(draft)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
