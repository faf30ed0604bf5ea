"""Cursors: where the next page of a list begins, in text that means something to this service only."""

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

from serve.refusals import BadCursor

MAX_POSITION = 2**31 - 1
FOREIGN_CURSOR = "The cursor is not one that this service gave. Send `next_cursor` of the answer before, or none."

Item = TypeVar("Item")


def one_page(found: Sequence[Item], limit: int) -> tuple[Sequence[Item], Item | None]:
    """The things of one page, of one more than fit on it; and the last of them, if that one was found."""
    return found[:limit], found[limit - 1] if len(found) > limit else None


def encode_cursor(created_at: datetime, name: str) -> str:
    """The position behind the thing with this time and id."""
    return base64.urlsafe_b64encode(f"{created_at.isoformat()} {name}".encode()).decode()


def decode_cursor(cursor: str | None) -> tuple[datetime, str] | None:
    """The position in a list, newest first, that the cursor names. Raises `BadCursor`."""
    if cursor is None:
        return None
    try:
        created_at, name = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode().split(" ")
        position = datetime.fromisoformat(created_at)
        position.astimezone(UTC)
    except (binascii.Error, ValueError, OverflowError) as error:
        raise BadCursor(FOREIGN_CURSOR) from error
    if position.tzinfo is None:
        raise BadCursor(FOREIGN_CURSOR)
    return position, name


def decode_number(cursor: str | None) -> int:
    """The position in a list in order that the cursor names; its beginning without one. Raises `BadCursor`."""
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdecimal()) or int(cursor) > MAX_POSITION:
        raise BadCursor(FOREIGN_CURSOR)
    return int(cursor)


def encode_chunk_cursor(revision: int, chunk_index: int) -> str:
    """The position of the chunk in this revision of its document."""
    return f"{revision}-{chunk_index}"


def decode_chunk_cursor(cursor: str | None) -> tuple[int | None, int]:
    """The revision and the chunk index that the cursor names; any revision's first without one. Raises `BadCursor`."""
    if cursor is None:
        return None, 0
    revision, _, chunk_index = cursor.partition("-")
    return decode_number(revision), decode_number(chunk_index)
