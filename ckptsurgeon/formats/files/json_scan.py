"""Scans JSON text a token at a time: only the parts that the caller takes become objects and use memory.

The `json` module creates up to twenty bytes of objects per byte of hostile text, and recurs for each level of nesting.
This module passes it only one string or flat object at a time, of bounded length.
"""

from __future__ import annotations

import json
import re

from ...errors import DamagedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

_SPACE = re.compile(rb"[ \t\n\r]*")
_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]{0,18})(?![0-9.eE])")
_LITERAL = re.compile(rb"[-+.0-9a-zA-Z]{1,64}")
_NOT_PLAIN = re.compile(rb"[\x00-\x1f\\]")
_DEEPEST = 64  # levels of nesting in skipped values
LONGEST = 1 << 16  # bytes of a name


class JsonScanner:
    """A position in a JSON text.

    Args:
        data: the text, UTF-8.

    Attributes:
        data: as given.
        at: the position, in bytes.
    """

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def peek(self) -> bytes:
        """Skip white space, and return the next byte without taking it; empty at the end."""
        space = _SPACE.match(self.data, self.at)
        self.at = space.end() if space else self.at
        return self.data[self.at : self.at + 1]

    def take(self, token: bytes) -> None:
        """Take a token of one byte; raise DamagedError if the next token is another."""
        if self.peek() != token:
            self._unexpected(token.decode())
        self.at += 1

    def object_keys(self) -> Iterator[str]:
        """The keys of the object at this position; the caller must take or skip each value before the next key."""
        self.take(b"{")
        if self.peek() == b"}":
            self.at += 1
            return
        while True:
            key = self.string(LONGEST)
            self.take(b":")
            yield key
            if self.peek() == b"}":
                self.at += 1
                return
            self.take(b",")

    def string(self, most: int) -> str:
        """Take a string of at most `most` bytes."""
        start = self.at + 1 if self.peek() == b'"' else self._unexpected('"')
        end = self._string_end(start, start + most)
        piece = self.data[start:end]
        self.at = end + 1
        try:
            text = piece.decode()
            if _NOT_PLAIN.search(piece):
                text = json.loads(f'"{text}"')
                text.encode()  # raises for escapes that spell half a surrogate pair
        except ValueError as error:
            raise DamagedError("damaged: a JSON string is not valid text", found=f"byte {start}") from error
        return text

    def flat_object(self, most: int) -> dict[str, object]:
        """Take an object of at most `most` bytes that holds no other objects and no numbers except integers."""
        if self.peek() != b"{":
            self._unexpected("{")
        end = self.data.find(b"}", self.at, self.at + most) + 1
        if not end:
            raise DamagedError("damaged: a JSON object is too long", found=f"byte {self.at}")
        try:
            value: dict[str, object] = _decode(self.data[self.at : end].decode())
        except (ValueError, RecursionError) as error:
            raise DamagedError("damaged: invalid JSON", found=f"byte {self.at}") from error
        self.at = end
        return value

    def integer(self) -> int:
        """Take an integer of fewer than 20 digits."""
        self.peek()
        found = _INTEGER.match(self.data, self.at)
        if found is None:
            self._unexpected("an integer")
        self.at = found.end()
        return int(found[0])

    def skip(self) -> None:
        """Skip the value at this position, whatever its type."""
        open_ones: list[bytes] = []
        while True:
            token = self.peek()
            if token == b'"':
                self.at = self._string_end(self.at + 1, len(self.data)) + 1
            elif token in (b"{", b"["):
                open_ones.append(b"}" if token == b"{" else b"]")
                self.at += 1
                if len(open_ones) > _DEEPEST:
                    raise DamagedError("damaged: JSON is nested too deeply", found=f"byte {self.at}")
            elif open_ones and token == open_ones[-1]:
                open_ones.pop()
                self.at += 1
            elif open_ones and token in (b",", b":"):
                self.at += 1
            else:
                literal = _LITERAL.match(self.data, self.at)
                self.at = literal.end() if literal else self._unexpected("a value")
            if not open_ones:
                return

    def end(self) -> None:
        """Raise DamagedError if anything but white space follows."""
        if self.peek():
            self._unexpected("the end")

    def _string_end(self, start: int, most: int) -> int:
        """The position of the quote that ends the string that begins at `start`."""
        end = start
        while True:
            end = self.data.find(b'"', end, most + 1)
            if end < 0:
                raise DamagedError("damaged: a JSON string is too long or has no end", found=f"byte {start}")
            before = end - 1
            while self.data[before] == 0x5C:
                before -= 1
            if (end - before) % 2:
                return end
            end += 1

    def _unexpected(self, expected: str) -> NoReturn:
        found = self.data[self.at : self.at + 1]
        what = repr(found.decode("latin-1")) if found else "its end"
        raise DamagedError("damaged: invalid JSON", expected=expected, found=f"{what} at byte {self.at}")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not an integer")


_decode = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_refuse, parse_constant=_refuse).decode
