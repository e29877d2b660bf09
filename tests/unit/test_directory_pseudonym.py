import hashlib
import hmac
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopcast_domain.events import Account
from shopcast_gateway.directory.open import open_directory
from shopcast_gateway.directory.pseudonym import (
    Pseudonyms,
    keys_from,
    load_or_create_keys,
    person_code,
    person_id,
    rotate,
)
from shopcast_gateway.errors import StartupError

KEY = bytes(range(32))
TEXTS = st.text(st.characters(), max_size=4)  # lone surrogates included


@given(st.tuples(TEXTS, TEXTS), st.tuples(TEXTS, TEXTS))
def test_no_two_accounts_or_event_ids_share_a_pseudonym(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    pseudonyms = Pseudonyms(KEY)
    same = one == other
    assert (pseudonyms.of(Account(*one)) == pseudonyms.of(Account(*other))) == same
    assert (pseudonyms.of_event(*one) == pseudonyms.of_event(*other)) == same


def test_moving_a_letter_from_platform_to_user_id_changes_the_pseudonym() -> None:
    pseudonyms = Pseudonyms(KEY)
    assert pseudonyms.of(Account("shop", "a1")) != pseudonyms.of(Account("shopa", "1"))


def test_the_pseudonym_is_a_truncated_hmac_that_stays_the_same_over_releases() -> None:
    expected = hmac.new(KEY, b"\0\0\0\x04shop" + b"anna", hashlib.sha256).digest()[:16]
    assert Pseudonyms(KEY).of(Account("shop", "anna")) == expected


def test_another_key_gives_other_pseudonyms() -> None:
    one, other = Pseudonyms(KEY), Pseudonyms(bytes(32))
    account = Account("shop", "anna")
    assert one.of(account) != other.of(account)
    assert one.of_event("shop", "e1") != other.of_event("shop", "e1")
    assert one.fingerprints() != other.fingerprints()


def test_the_repr_gives_neither_key_nor_account_away() -> None:
    assert KEY.hex() not in repr(Pseudonyms(KEY))
    assert repr(KEY) not in repr(Pseudonyms(KEY))


def test_a_person_id_is_p_and_32_hex_digits_and_not_the_pseudonym() -> None:
    pseudonym = Pseudonyms(KEY).of(Account("shop", "anna"))
    prefix, digits = person_id(person_code(pseudonym))[:2], person_id(person_code(pseudonym))[2:]
    assert prefix == "p_"
    assert len(bytes.fromhex(digits)) == 16
    assert digits != pseudonym.hex()


def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    umask = os.umask(0)
    try:
        (key,) = load_or_create_keys(path)
    finally:
        os.umask(umask)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_keys(path) == (key,)
    assert list(tmp_path.iterdir()) == [path]
    assert load_or_create_keys(tmp_path / "other") != (key,)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    load_or_create_keys(path)
    path.chmod(mode)
    with pytest.raises(StartupError, match="chmod 600") as refusal:
        load_or_create_keys(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_file_of_the_wrong_size_is_refused_and_left_alone(tmp_path: Path, size: int) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(b"k" * size)
    with pytest.raises(StartupError, match="not a key file"):
        load_or_create_keys(path)
    assert path.read_bytes() == b"k" * size


def test_a_key_in_a_missing_folder_or_at_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "key", tmp_path):
        with pytest.raises(StartupError, match="key file"):
            load_or_create_keys(path)


async def test_a_directory_that_has_lost_its_key_is_refused_and_gets_no_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "shop.db"
    await (await open_directory(path)).close()
    key = tmp_path / "shop.db.key"
    key.unlink()
    with pytest.raises(StartupError, match="restore both from one backup"):
        await open_directory(path)
    assert not key.exists()


def test_rotating_puts_a_new_key_before_the_others(tmp_path: Path) -> None:
    path = tmp_path / "key"
    (first,) = load_or_create_keys(path)
    assert rotate(path) == 2
    newest, kept = load_or_create_keys(path)
    assert kept == first != newest
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    account = Account("shop", "anna")
    both = Pseudonyms(newest, kept)
    assert both.of(account) == Pseudonyms(newest).of(account)
    assert both.all_of(account)[1] == Pseudonyms(kept).of(account)
    assert both.all_of_event("shop", "1")[1] == Pseudonyms(kept).of_event("shop", "1")


def test_a_ring_is_not_rotated_into_one_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    load_or_create_keys(path)
    with pytest.raises(StartupError, match="which is the most"):
        for _ in range(100):
            rotate(path)
    assert len(load_or_create_keys(path)) == 64


def test_keys_come_from_a_variable_too() -> None:
    other = bytes(32)
    assert keys_from(f"{KEY.hex()}, {other.hex()}") == (KEY, other)
    for wrong in ("", "abc", f"{KEY.hex()},", KEY.hex()[:-1]):
        with pytest.raises(StartupError, match="64 hexadecimal digits") as refusal:
            keys_from(wrong)
        assert KEY.hex()[:-1] not in str(refusal.value)
