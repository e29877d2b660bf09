"""Messages from what a caller gave, or an InvalidRequest that names what does not fit."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from shopcast_client.errors import InvalidRequest, Violation

_RULES = {
    FieldDescriptor.CPPTYPE_STRING: "must be text that UTF-8 has",
    FieldDescriptor.CPPTYPE_INT32: "must be a whole number of 32 bits",
    FieldDescriptor.CPPTYPE_INT64: "must be a whole number of 64 bits",
    FieldDescriptor.CPPTYPE_DOUBLE: "must be a number",
    FieldDescriptor.CPPTYPE_BOOL: "must be true or false",
}

M = TypeVar("M", bound=Message)
K = TypeVar("K", bound=StrEnum)
N = TypeVar("N")


def unfit(field: str, problem: str) -> InvalidRequest:
    """What to raise instead of sending. problem: says what the field must be, never what it is."""
    return InvalidRequest(
        f"The request was not sent: {field} {problem}.",
        reason="BAD_REQUEST",
        request_id="",
        violations=(Violation(field, problem),),
    )


def built(kind: type[M], path: str = "", /, **fields: Any) -> M:
    """A message; what is None stays unset. path: of the message within the request, with a dot
    behind it. Raises InvalidRequest."""
    try:
        return kind(**fields)
    except (TypeError, ValueError):  # which do not name the field, but what it held
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError):
                rule = _RULES.get(kind.DESCRIPTOR.fields_by_name[name].cpp_type)
                raise unfit(path + name, rule or "is not of its type") from None
        raise


def number_of(numbers: Mapping[K, N], given: K, field: str) -> N:
    """What stands for a word in a message. Raises InvalidRequest."""
    try:
        return numbers[given]
    except (KeyError, TypeError):
        raise unfit(field, f"must be one of {', '.join(numbers)}") from None


def timestamp(time: datetime | None, field: str) -> Timestamp | None:
    """As shopcast.v1 has it. Raises InvalidRequest for what is no time with a time zone."""
    if time is None:
        return None
    message = Timestamp()
    try:
        if time.utcoffset() is None:
            raise ValueError
        message.FromDatetime(time.astimezone(UTC))
    except (AttributeError, OverflowError, ValueError):
        raise unfit(
            field, "must be a time with a time zone, such as datetime.now(UTC) gives"
        ) from None
    return message


def duration(length: timedelta | None, field: str) -> Duration | None:
    """As shopcast.v1 has it. Raises InvalidRequest for what is no timedelta."""
    if length is None:
        return None
    message = Duration()
    try:
        message.FromTimedelta(length)
    except (AttributeError, ValueError):
        raise unfit(field, "must be a timedelta") from None
    return message
