"""Pickled arrays, read by a small machine of its own: it knows arrays and containers, and calls nothing."""

from __future__ import annotations

import pickletools
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["UnsafeContent", "arrays_of"]

NUMBERS = ("u1", "i1", "i2", "i4", "i8", "f4", "f8")
MARK = object()
RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
KNOWN = (*RECONSTRUCT, "numpy ndarray", "numpy dtype", "_codecs encode")
PLAIN = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE "
    "BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 FLOAT BINFLOAT"
).split()
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class UnsafeContent(ValueError):
    """A pickle asks for something that is no array, number, string or container."""


class _Name(str):
    """A name that a pickle asks for, one of ``KNOWN``; never looked up."""


class _Made:
    """A numpy type or array in the making."""

    def __init__(self, kind: str, name: str = "") -> None:
        self.kind, self.name, self.array = kind, name, np.empty(0, np.uint8)

    def build(self, state: Any) -> None:
        """Takes what the pickle says about it."""
        if self.kind == "type":
            self.name = (">" if state[1] == ">" else "<") + self.name
            return
        _, shape, kind, columns_first, data = state
        if not isinstance(kind, _Made) or kind.kind != "type" or not isinstance(data, (bytes, str)):
            raise UnsafeContent("an array that is not made of numbers")
        raw = data if isinstance(data, bytes) else data.encode("latin1")
        self.array = np.frombuffer(raw, kind.name).reshape(shape, order="F" if columns_first else "C")


def _name(text: str) -> _Name:
    if text not in KNOWN:
        raise UnsafeContent(f"it asks for {text.replace(' ', '.')}, which is no array")
    return _Name(text)


def _call(name: Any, arguments: tuple[Any, ...]) -> Any:
    """What the few known names stand for."""
    if name == "_codecs encode" and arguments[1] == "latin1":
        return arguments[0].encode("latin1")
    if name == "numpy dtype" and arguments[0] in NUMBERS:
        return _Made("type", arguments[0])
    if name in RECONSTRUCT and arguments[0] == "numpy ndarray":
        return _Made("array")
    raise UnsafeContent(f"it calls {name!r} with {str(arguments)[:80]}")


def arrays_of(data: bytes) -> Any:
    """The dicts, lists, strings, numbers and arrays of numbers in a pickle. Strings of bytes become strings.

    Nothing is imported or called: any other content is refused.

    Raises:
        UnsafeContent: the pickle asks for anything else.
        ValueError, IndexError, KeyError, TypeError, AttributeError: it is truncated or damaged.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def marked() -> list[Any]:
        place = max(number for number, value in enumerate(stack) if value is MARK)
        values = stack[place + 1 :]
        del stack[place:]
        return values

    operations: Iterable[tuple[Any, Any, Any]] = pickletools.genops(data)
    for opcode, argument, _ in operations:
        code = opcode.name
        if code in PLAIN:
            stack.append(argument)
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code])
        elif code in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if code == "EMPTY_DICT" else [])
        elif code == "MARK":
            stack.append(MARK)
        elif code in ("LIST", "TUPLE"):
            values = marked()
            stack.append(values if code == "LIST" else tuple(values))
        elif code == "DICT":
            values = marked()
            stack.append(dict(zip(values[::2], values[1::2], strict=True)))
        elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(code[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif code in ("APPEND", "APPENDS"):
            values = marked() if code == "APPENDS" else [stack.pop()]
            stack[-1].extend(values)
        elif code in ("SETITEM", "SETITEMS"):
            if code == "SETITEMS":
                values = marked()
            else:
                values, stack[-2:] = stack[-2:], []
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif code in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if code == "MEMOIZE" else argument] = stack[-1]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif code == "GLOBAL":
            stack.append(_name(argument))
        elif code == "STACK_GLOBAL":
            stack[-2:] = [_name(" ".join(stack[-2:]))]
        elif code == "REDUCE":
            stack[-2:] = [_call(*stack[-2:])]
        elif code == "BUILD":
            state = stack.pop()
            stack[-1].build(state)
        elif code not in ("PROTO", "FRAME", "STOP"):
            raise UnsafeContent(f"it uses {code}, which no batch of arrays needs")
    (content,) = stack
    return _plain(content)


def _plain(content: Any) -> Any:
    if isinstance(content, _Made):
        return content.array
    if isinstance(content, bytes):
        return content.decode("latin1")
    if isinstance(content, dict):
        return {_plain(key): _plain(value) for key, value in content.items()}
    return [_plain(value) for value in content] if isinstance(content, (list, tuple)) else content
