"""Matches names with patterns of any number of wildcards in linear time."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# An element of a pattern: characters, whether it takes all others instead of these, how many elements to step over
# where it takes nothing (0: it must take a character), and whether it may take more than one.
Element = tuple[str, bool, int, bool]

_FURTHER_DIGITS: list[Element] = [("0123456789", False, 1, False)] * 17
_WILDCARDS: dict[str, list[Element]] = {
    "{K}": [("0123456789", False, 0, False), *_FURTHER_DIGITS],
    "{_K}": [("_", False, 19, False), ("123456789", False, 0, False), *_FURTHER_DIGITS],
    "**": [("", True, 1, True)],
    "*": [("/", True, 1, True)],
    "?": [("/", True, 0, False)],
}
_MOST_KEPT = 1 << 16  # transitions; all states are forgotten when there are more


class Automaton:
    """Matches whole names; each wildcard takes as much as it can, the first one first.

    A name is read once, from its end. The state is the set of elements from which the rest of the pattern matches the
    rest of the name. States and transitions are computed when they are first needed, at a cost that depends on the
    pattern only.

    Args:
        tokens: the wildcards of a pattern.
        literals: the texts around them, one more than there are wildcards.
    """

    def __init__(self, tokens: Sequence[str], literals: Sequence[str]) -> None:
        self._first, self._last = literals[0], literals[-1]
        self._elements: list[Element] = [(char, False, 0, False) for char in self._first]
        # Of each wildcard: its first element, the one after its last, and the number of literal characters after it.
        self._wildcards: list[tuple[int, int, int]] = []
        for token, literal in zip(tokens, literals[1:], strict=True):
            begin = len(self._elements)
            self._elements += _WILDCARDS[token]
            self._wildcards.append((begin, len(self._elements), len(literal)))
            self._elements += [(char, False, 0, False) for char in literal]
        self._skips = [(at, element[2]) for at, element in enumerate(self._elements) if element[2]][::-1]
        self._forget()

    def matches(self, name: str) -> bool:
        """Whether a whole name matches."""
        if not (name.startswith(self._first) and name.endswith(self._last)):
            return False  # most names differ there, and are not read
        state = self._end
        for char in reversed(name):
            state = state[char]
        return bool(state.matching & 1)

    def spans(self, name: str) -> list[tuple[int, int]] | None:
        """Where in a name the text of each wildcard begins and ends, or None if the name does not match."""
        if not (name.startswith(self._first) and name.endswith(self._last)):
            return None
        state = self._end
        states = [state]
        for char in reversed(name):
            state = state[char]
            states.append(state)
        if not state.matching & 1:
            return None
        states.reverse()  # now by position in the name
        position = len(self._first)
        found = []
        for begin, end, literal in self._wildcards:
            at, start = begin, position
            while at < end:
                characters, others, skip, many = self._elements[at]
                if many:  # all but what the rest needs
                    stop = name.find(characters, position) if characters else -1
                    last = len(name) if stop < 0 else stop
                    while not states[last].matching >> at + 1 & 1:
                        last -= 1
                    position, at = last, at + 1
                elif (
                    position < len(name)
                    and (name[position] in characters) != others
                    and states[position + 1].matching >> at + 1 & 1
                ):
                    position, at = position + 1, at + 1
                else:
                    at += skip
            found.append((start, position))
            position += literal
        return found

    def previous(self, state: State, char: str) -> State:
        """Compute the state one character before a state, and keep it."""
        self._kept += 1
        if self._kept > _MOST_KEPT:
            self._forget()
        found = state[char] = self._state(state.matching, char)
        return found

    def _forget(self) -> None:
        self._kept = 0
        self._states: dict[int, State] = {}
        self._takers: dict[str, tuple[int, int]] = {}
        self._end = self._state(1 << len(self._elements))

    def _taking(self, char: str) -> tuple[int, int]:
        """The elements that take a character, as bits: those that take one, and those that may take more."""
        once = often = 0
        for at, (characters, others, _, many) in enumerate(self._elements):
            if (char in characters) != others:
                once |= (not many) << at
                often |= many << at
        self._takers[char] = once, often
        return once, often

    def _state(self, after: int, char: str = "") -> State:
        """The state before a character, given the elements that match after it; without one, the state at the end."""
        matching = after
        if char:
            once, often = self._takers.get(char) or self._taking(char)
            matching = (after >> 1 & once) | (after & often)
        for at, skip in self._skips:
            if matching >> at + skip & 1:
                matching |= 1 << at
        return self._states.setdefault(matching, State(self, matching))


class State(dict[str, "State"]):
    """A state of an automaton: maps a character to the state before it.

    Args:
        automaton: whose state it is.
        matching: the elements from which the rest of the name matches, as bits.
    """

    def __init__(self, automaton: Automaton, matching: int) -> None:
        super().__init__()
        self._automaton = automaton
        self.matching = matching

    def __missing__(self, char: str) -> State:
        return self._automaton.previous(self, char)
