"""Hypothesis strategies of protobuf messages, made from their descriptors, and of spoilt bytes."""

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

CANARY = "zq7canary"
"""Begins most texts, so that they are found wherever they went. A platform may be named so."""
NUMBER = 7_306_951_842
"""The number that stands for many, for the same purpose."""

_DEEPEST = 4
_ALWAYS_OPEN = {"google.protobuf.Timestamp", "google.protobuf.Duration"}
_SECONDS = (0, -1, 1, 946_684_799, 1_790_000_000, 253_402_300_799, 253_402_300_800, NUMBER)
_ODD = (
    "\x00", "\n", "\r\n", "\x1b[31m", "\x7f", "\u2028", "\ufeff", "\ufffd", "\ud7ff", "\U0010ffff",
    "a\u0301" * 3, "\u202e", " ", "%s%n", "{}", "' OR 1=1 --", "\\", '"', "p_" + "0" * 32,
)  # fmt: skip
_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = (
    float("nan"), float("inf"), -float("inf"), -0.0, 5e-324, 1.7976931348623157e308, -1.0, 1e9,
    float(NUMBER),
)  # fmt: skip


def messages(kind: Descriptor) -> st.SearchStrategy[Message]:
    """Messages of a type. Some fields of each are as they should be, others are anything that the
    wire can carry."""
    return st.integers(0, 3).flatmap(lambda wild: _messages(kind, wild, _DEEPEST))


@st.composite
def _messages(draw: st.DrawFn, kind: Descriptor, wild: int, deepest: int) -> Message:
    """wild: of four fields, how many are anything; the others are decent."""
    made = GetMessageClass(kind)()
    if kind.full_name in _ALWAYS_OPEN:
        return draw(_times(made, wild))
    chosen = {one.name: draw(st.sampled_from([f.name for f in one.fields])) for one in kind.oneofs}
    for field in kind.fields:
        oneof = field.containing_oneof
        if oneof is not None and chosen[oneof.name] != field.name:
            continue
        odd = draw(st.integers(0, 3)) < wild
        if odd and not draw(st.integers(0, 3)):
            continue  # left out
        _fill(draw, made, field, wild if odd else 0, deepest)
    return made


def _fill(draw: st.DrawFn, made: Message, field: FieldDescriptor, wild: int, deepest: int) -> None:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        for _ in range(draw(_lengths(wild))):
            at = draw(_values(key, wild))
            if value.message_type is None:
                getattr(made, field.name)[at] = draw(_values(value, wild))
            elif deepest:
                deeper = draw(_messages(value.message_type, wild, deepest - 1))
                getattr(made, field.name)[at].CopyFrom(deeper)
    elif field.is_repeated:
        one = getattr(made, field.name)
        if entry is None:
            one.extend(draw(_values(field, wild)) for _ in range(draw(_lengths(wild))))
        elif deepest:
            few = [
                draw(_messages(entry, wild, deepest - 1)) for _ in range(draw(st.integers(1, 2)))
            ]
            one.extend(few[n % len(few)] for n in range(draw(_lengths(wild))))
    elif entry is None:
        setattr(made, field.name, draw(_values(field, wild)))
    elif deepest:
        getattr(made, field.name).CopyFrom(draw(_messages(entry, wild, deepest - 1)))


def _lengths(wild: int) -> st.SearchStrategy[int]:
    return st.sampled_from((0, 1, 2, 101, 1001) if wild else (1, 2))


def _times(made: Any, wild: int) -> st.SearchStrategy[Any]:
    low, high = _BITS[FieldDescriptor.CPPTYPE_INT64]
    seconds = st.sampled_from((*_SECONDS, low, high)) if wild else st.just(1_780_000_000)
    low, high = _BITS[FieldDescriptor.CPPTYPE_INT32]
    odd = (0, -1, 999_999_999, 1_000_000_000, low, high)
    nanos = st.sampled_from(odd) if wild else st.integers(0, 999_999_999)
    return st.builds(type(made), seconds=seconds, nanos=nanos)


def _values(field: FieldDescriptor, wild: int) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        texts = _texts() if wild else st.integers(0, 9).map(lambda n: f"{CANARY}-{n}")
        return texts.map(str.encode) if field.type == FieldDescriptor.TYPE_BYTES else texts
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        known = [value.number for value in field.enum_type.values]
        unknown = [-1, 7, 99, 2**31 - 1, -(2**31)]
        return st.sampled_from([*known, *unknown] if wild else known[1:])
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return st.sampled_from(_FLOATS) if wild else st.just(0.5)
    low, high = _BITS[kind]
    return (
        st.sampled_from((low, high, 0, 1, max(low, -1), min(NUMBER, high))) if wild else st.just(1)
    )


def _texts() -> st.SearchStrategy[str]:
    """Texts by what has broken others: controls, odd scripts, quoting, length. Never a surrogate:
    protobuf cannot carry one; bytes that are no UTF-8 are for `mutated`."""
    return st.one_of(
        st.sampled_from(("", CANARY, *_ODD)),
        st.sampled_from(_ODD).map(lambda odd: CANARY + odd),
        st.sampled_from((64, 65, 128, 129, 256, 257, 1_001, 2_000)).map(CANARY.ljust),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(lambda t: CANARY + t),
    )


@st.composite
def mutated(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of a message after one to four accidents."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        accident = draw(
            st.sampled_from(("flip", "cut", "splice", "repeat", "varint", "nest", "utf8"))
        )
        if accident == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif accident == "cut":
            del data[at:]
        elif accident == "splice":
            other = draw(whole)
            data[at:] = other[draw(st.integers(0, len(other))) :]
        elif accident == "repeat":
            data += data[at : at + 5_000]
        elif accident == "varint":  # a number, or a length, beyond everything
            data[at:at] = draw(st.sampled_from((b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\x80" * 20)))
        elif accident == "nest":  # deeper than any parser goes
            data[at:at] = b"\x0b" * 300  # groups that begin and do not end
        else:
            data[at:at] = draw(st.sampled_from((b"\x0a\x02\xc3\x28", b"\xed\xa0\x80", b"\xff")))
    return bytes(data)
