"""Pickles read as data: a machine for the opcodes that builds plain values and runs nothing.

``pickle`` itself imports and calls what a file names. Here a file can name what it likes: a few
names stand for values that are built here (``KNOWN`` of ``archive_values``), and all others are
refused, or become inert placeholders. Opcodes are told apart by ``pickletools``; what is built
is bounded by the number of opcodes, as none of them is worth more than its own bytes: all copies
of values together hold no more than the pickle has bytes, and keys are such as hash in no time.

Source: PEP 307, PEP 3154, and the descriptions in ``pickletools`` of the standard library.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MAX_OPCODES = 300_000  # the largest checkpoints that are known have 50 thousand
MAX_DEPTH = 64
MAX_COPIED = 1 << 20  # values; and never more values and characters than bytes of the pickle
MAX_KEY_TEXT = 4096  # characters
MAX_KEY_NUMBER = 1 << 56  # old optimizers have addresses as keys; from 2⁶¹ on hashes repeat
MAX_NUMBER_KEYS = 1 << 14  # hashes of numbers can be chosen so that they meet, those of texts not

Call = Callable[..., Any]


class PickleError(Exception):
    """What is wrong with a pickle, as a phrase."""


@dataclass(frozen=True, slots=True)
class Name:
    """What a pickle refers to by module and name; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class ForeignNameError(PickleError):
    """A pickle refers to something that is not built here.

    Args:
        name: What.
    """

    def __init__(self, name: Name) -> None:
        self.name = name
        super().__init__(f"refers to {str(name)[:80]!r}")


@dataclass(slots=True, eq=False)
class Inert:
    """Stands for a value that was not built, and does nothing.

    Attributes:
        name: What would have made it.
    """

    name: Name


@dataclass(slots=True, eq=False)
class Record:
    """An object of a class that is known by its name only.

    Attributes:
        name: Its class.
        fields: Its attributes.
    """

    name: Name
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What names in a pickle stand for.

    Attributes:
        calls: By module and name, what builds a value of the arguments.
        constants: By module and name, values.
        is_record: Whether a name is that of a class whose objects become ``Record``s.
        persistent: Makes a value of a persistent id.
    """

    calls: dict[str, Call]
    constants: dict[str, Any]
    persistent: Callable[[Any], Any]
    is_record: Callable[[Name], bool] = lambda name: False


_MARK = object()
_PUSHED = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
)
_IGNORED = frozenset(("PROTO", "FRAME"))
_VALUES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
    "MARK": lambda: _MARK,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MEMO_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_MEMO_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))


def read_pickle(file: BinaryIO, vocabulary: Vocabulary, *, tolerate: bool = False) -> Any:
    """The value of the pickle that begins here; the file is left behind it.

    Args:
        file: Must not allocate more for a ``read`` than there is to be read.
        vocabulary: What names stand for.
        tolerate: Whether unknown names become ``Inert``.

    Raises:
        ForeignNameError: If there is an unknown name, unless ``tolerate``.
        PickleError: If it is no whole pickle, or too long, deep or circular.
    """
    machine = _Machine(vocabulary, tolerate)
    try:
        first = file.tell()
        for count, (opcode, argument, at) in enumerate(pickletools.genops(file)):
            if count >= MAX_OPCODES:
                raise PickleError(f"holds a pickle of more than {MAX_OPCODES:,} steps")
            if opcode.name == "STOP":
                break
            machine.step(opcode.name, argument, (at or 0) - first)
        value = machine.pop()
    except PickleError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        if isinstance(error, ValueError) and not file.read(1):
            raise PickleError("holds a pickle that is cut off") from None
        raise PickleError(f"holds a broken pickle ({str(error)[:80]})") from None
    _require_shallow(value)
    return value


class _Machine:
    """The stack and the memo of a pickle that is read."""

    def __init__(self, vocabulary: Vocabulary, tolerate: bool) -> None:
        self._words = vocabulary
        self._tolerate = tolerate
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._read_bytes = 0
        self._copied = 0
        self._copied_values = 0
        self._number_keys = 0

    def step(self, name: str, argument: Any, read_bytes: int) -> None:
        """Does one opcode, which comes after so many bytes of the pickle."""
        self._read_bytes = read_bytes
        if name in _PUSHED:
            self._stack.append(argument)
        elif name in _VALUES:
            self._stack.append(_VALUES[name]())
        elif name in _MEMO_PUTS:
            self._put(argument)
        elif name in _MEMO_GETS:
            self._stack.append(self._memo[argument])
        elif name in _TUPLES:
            self._stack.append(tuple(self._pop_many(_TUPLES[name])))
        elif name not in _IGNORED:
            method = getattr(self, f"_do_{name.lower()}", None)
            if method is None:
                raise PickleError(f"holds a pickle with the step {name}, which is not known here")
            method(argument)

    def pop(self) -> Any:
        """Takes the top of the stack away."""
        value = self._stack.pop()
        if value is _MARK:
            raise PickleError("holds a broken pickle (a mark without values)")
        return value

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise PickleError("holds a broken pickle (no value where one is needed)")
        return self._stack[-1]

    def _pop_many(self, count: int) -> list[Any]:
        values = self._stack[len(self._stack) - count :] if len(self._stack) >= count else [_MARK]
        if any(value is _MARK for value in values):
            raise PickleError("holds a broken pickle (too few values)")
        del self._stack[len(self._stack) - count :]
        return values

    def _pop_to_mark(self) -> list[Any]:
        for at in range(len(self._stack) - 1, -1, -1):
            if self._stack[at] is _MARK:
                values = self._stack[at + 1 :]
                del self._stack[at:]
                return values
        raise PickleError("holds a broken pickle (no mark)")

    # ---- Containers -------------------------------------------------------------------------

    def _do_memoize(self, _: Any) -> None:
        self._put(len(self._memo))

    def _put(self, place: int) -> None:
        if not 0 <= place < MAX_OPCODES:
            raise PickleError(f"holds a broken pickle (the place {place:,})")
        self._memo[place] = self._top()

    def _do_dup(self, _: Any) -> None:
        self._stack.append(self._top())

    def _do_pop(self, _: Any) -> None:
        self._stack.pop()

    def _do_pop_mark(self, _: Any) -> None:
        self._pop_to_mark()

    def _do_bytearray8(self, argument: Any) -> None:
        self._stack.append(bytes(argument))

    def _do_tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _do_list(self, _: Any) -> None:
        self._stack.append(self._pop_to_mark())

    def _do_dict(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._stack.append({})
        self._set_items(values)

    def _do_frozenset(self, _: Any) -> None:
        self._stack.append(frozenset(map(self._key, self._pop_to_mark())))

    def _do_append(self, _: Any) -> None:
        self._extend([self.pop()])

    def _do_appends(self, _: Any) -> None:
        self._extend(self._pop_to_mark())

    def _do_setitem(self, _: Any) -> None:
        self._set_items(self._pop_many(2))

    def _do_setitems(self, _: Any) -> None:
        self._set_items(self._pop_to_mark())

    def _do_additems(self, _: Any) -> None:
        values = self._pop_to_mark()
        target = self._top()
        if isinstance(target, set):
            target.update(map(self._key, values))
        elif not isinstance(target, Inert):
            raise PickleError("holds a broken pickle (values for what is no set)")

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Inert):
            raise PickleError("holds a broken pickle (values for what is no list)")

    def _set_items(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, dict):
            if len(values) % 2:
                raise PickleError("holds a broken pickle (a key without value)")
            target.update(zip(map(self._key, values[::2]), values[1::2], strict=True))
        elif not isinstance(target, Inert):
            raise PickleError("holds a broken pickle (items for what is no dictionary)")

    # ---- Names and what they would do -------------------------------------------------------

    def _do_global(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        self._refer(Name(module, name))

    def _do_stack_global(self, _: Any) -> None:
        module, name = self._pop_many(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("holds a broken pickle (a name that is no text)")
        self._refer(Name(module, name))

    def _refer(self, name: Name) -> None:
        text = str(name)
        if text in self._words.constants:
            self._stack.append(self._words.constants[text])
        elif text in self._words.calls or self._words.is_record(name):
            self._stack.append(name)
        elif self._tolerate:
            self._stack.append(Inert(name))
        else:
            raise ForeignNameError(name)

    def _do_reduce(self, _: Any) -> None:
        self._call(*self._pop_many(2))

    def _do_newobj(self, _: Any) -> None:
        self._call(*self._pop_many(2))

    def _do_newobj_ex(self, _: Any) -> None:
        what, arguments, _named = self._pop_many(3)
        self._call(what, arguments)

    def _do_inst(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        arguments = tuple(self._pop_to_mark())
        self._refer(Name(module, name))
        self._call(self.pop(), arguments)

    def _do_obj(self, _: Any) -> None:
        what, *arguments = self._pop_to_mark()
        self._call(what, tuple(arguments))

    def _call(self, what: Any, arguments: Any) -> None:
        if isinstance(what, Inert):
            self._stack.append(Inert(what.name))
            return
        if not isinstance(what, Name) or not isinstance(arguments, tuple):
            raise PickleError("holds a broken pickle (a call of what is no function)")
        build = self._words.calls.get(str(what))
        if build is None:
            self._stack.append(Record(what))
        elif any(isinstance(argument, Inert) for argument in arguments):
            self._stack.append(next(Inert(a.name) for a in arguments if isinstance(a, Inert)))
        else:
            self._allow_copy_of(arguments)
            self._stack.append(build(*arguments))

    def _do_build(self, _: Any) -> None:
        state = self.pop()
        target = self._top()
        if isinstance(target, Record):
            if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
                raise PickleError(f"holds a {target.name.name} without attributes")
            self._allow_copy_of((state,))
            target.fields.update(state)
        elif hasattr(target, "set_state"):  # one of those that the vocabulary's calls build
            target.set_state(state)
        elif not isinstance(target, Inert | dict):  # a dictionary's are hints for its trainer
            raise PickleError("holds a broken pickle (a state for what has none)")

    def _allow_copy_of(self, values: tuple[Any, ...]) -> None:
        """Values can be named again and again, so that copies of them could fill the memory."""
        for value in values:
            if isinstance(value, Sized):
                self._copied += len(value)
                self._copied_values += 0 if isinstance(value, str | bytes) else len(value)
        if self._copied > self._read_bytes or self._copied_values > MAX_COPIED:
            raise PickleError("holds a pickle that copies its values again and again")

    def _do_persid(self, argument: Any) -> None:
        self._stack.append(self._words.persistent(argument))

    def _do_binpersid(self, _: Any) -> None:
        self._stack.append(self._words.persistent(self.pop()))

    def _key(self, value: Any) -> Any:
        if isinstance(value, int):
            self._number_keys += 1
            if self._number_keys > MAX_NUMBER_KEYS:
                raise PickleError(f"holds more than {MAX_NUMBER_KEYS:,} numbers as keys")
        return value if isinstance(value, Inert) else plain_key(value)


def plain_key(value: Any) -> str | int | None:
    """``value`` if it may be a key: hashing others can take quadratic or exponential time.

    Raises:
        PickleError: If it may not.
    """
    if value is None or (isinstance(value, str) and len(value) <= MAX_KEY_TEXT):
        return value
    if isinstance(value, int) and abs(value) < MAX_KEY_NUMBER:
        return value
    kind = "too large" if isinstance(value, str | int) else f"of type {type(value).__name__}"
    raise PickleError(f"holds a dictionary or set with a key that is {kind}")


def _require_shallow(value: Any) -> None:
    """Refuses what whoever walks through it could get lost in."""
    heights: dict[int, int] = {}
    open_nodes: set[int] = set()
    todo: list[tuple[Any, bool]] = [(value, False)]  # each is met twice: before its parts and after
    while todo:
        node, leaving = todo.pop()
        if leaving:
            open_nodes.discard(id(node))
            heights[id(node)] = 1 + max(heights.get(id(part), 0) for part in _parts(node))
            if heights[id(node)] > MAX_DEPTH:
                raise PickleError(f"holds values nested more than {MAX_DEPTH} deep")
        elif id(node) in open_nodes:
            raise PickleError("holds a value that contains itself")
        elif id(node) not in heights and (parts := _parts(node)):
            open_nodes.add(id(node))
            todo.append((node, True))
            todo.extend((part, False) for part in parts)


def _parts(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    if isinstance(node, list | tuple):
        return list(node)
    if isinstance(node, Record):
        return list(node.fields.values())
    return []
