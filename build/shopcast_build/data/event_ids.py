"""Stable ids for events that come without one."""

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

_TEXTS = ("platform", "user", "kind", "item_id")
_KEY = ("platform", "user", "time", "kind", "item_id", "quantity")
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)

Lanes = NDArray[np.uint64]


def made_event_ids(events: pl.DataFrame) -> pl.Series:
    """An id for every event: 32 hexadecimal digits, the same whenever the log is read again.

    events: columns platform, user, time (us, UTC), kind, item_id, quantity.
    An id stands for these, and for the n-th event that is alike in all of them, in the order of the
    rows. It is made from the user id: whoever holds it and the rest of the event can test a guess
    of the user id.
    """
    repetition = events.select(pl.int_range(pl.len()).over(_KEY)).to_series()
    lanes = np.tile(np.array([0x243F6A8885A308D3, 0x13198A2E03707344], np.uint64), (len(events), 1))
    for name in _TEXTS:
        lanes = _mixed(lanes ^ _text_digests(events[name].cast(pl.String)))
    for numbers in (events["time"].to_physical(), events["quantity"], repetition):
        lanes = _mixed(lanes ^ numbers.to_numpy().astype(np.int64).view(np.uint64)[:, None])
    octets = lanes.astype(">u8").view(np.uint8)  # (n, 16)
    digits = np.empty((len(events), 32), np.uint8)
    digits[:, 0::2], digits[:, 1::2] = _HEX[octets >> 4], _HEX[octets & 15]
    return pl.Series("event_id", digits.view("S32").ravel()).cast(pl.String)


def _text_digests(texts: pl.Series) -> Lanes:
    """BLAKE2b-128 of every row's text, computed once per distinct text: uint64 (n, 2)."""
    distinct = texts.unique()
    digests = b"".join(hashlib.blake2b(t.encode(), digest_size=16).digest() for t in distinct)
    codes = texts.cast(pl.Enum(distinct)).to_physical().to_numpy()
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64).reshape(-1, 2)[codes]


def _mixed(lanes: Lanes) -> Lanes:
    """The SplitMix64 step and finaliser (Steele, Lea and Flood 2014), wrapping as uint64 does."""
    lanes = lanes + np.uint64(0x9E3779B97F4A7C15)
    lanes = (lanes ^ (lanes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    lanes = (lanes ^ (lanes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return lanes ^ (lanes >> np.uint64(31))
