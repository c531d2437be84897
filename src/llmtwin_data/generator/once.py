"""Steps that are made once: a method whose result is kept on its object."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Kept(Protocol):
    """An object that keeps the results of its steps by name; taking one out makes the step run again."""

    _results: dict[str, Any]


S = TypeVar("S", bound=Kept)


def once(step: Callable[[S], T]) -> Callable[[S], T]:
    """Keep a step's result, so that any later step, or the same cell again, finds it; errors are not kept."""

    @wraps(step)
    def kept(self: S) -> T:
        if step.__name__ not in self._results:
            self._results[step.__name__] = step(self)
        found: T = self._results[step.__name__]
        return found

    return kept
