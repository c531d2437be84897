"""A foreign dataset with its measures, and what a look at it as a whole found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmtwin_data.audits.foreign import ForeignRow
from llmtwin_data.contents import Content
from llmtwin_data.curation.alarms import EXAMPLES, shortened
from llmtwin_data.languages import words
from llmtwin_data.measures import Measures


@dataclass(frozen=True, slots=True)
class Audited:
    """A dataset with its measures; ``texts`` are distinct and ``owners`` gives each row's."""

    rows: Sequence[ForeignRow]
    texts: Sequence[str]
    owners: Sequence[int]
    measures: Sequence[Measures]
    contents: Sequence[Content] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One look at a dataset: how many of how many, up to which share that is well, what was not looked at."""

    name: str
    what: str
    count: int
    checked: int
    most: float
    examples: tuple[str, ...] = field(default=())
    note: str = ""

    @property
    def raised(self) -> bool:
        """Whether this is worth stopping for."""
        return self.count > self.most * self.checked

    @property
    def line(self) -> str:
        """One line that begins with the name."""
        well = f"at most {self.most:.0%} is well" if self.most else "none is well"
        return f"{self.name}: {self.count} of {self.checked} {self.what} ({well})"


def places_of(audited: Audited, chosen: Callable[[Measures], bool]) -> list[int]:
    """Give the rows chosen by their measures."""
    return [place for place, item in enumerate(audited.measures) if chosen(item)]


def finding_of(
    name: str, what: str, audited: Audited, places: Sequence[int], checked: int, most: float, note: str = ""
) -> Finding:
    """Make a finding of these rows, the first three as examples."""
    rows = [audited.rows[place] for place in places[:EXAMPLES]]
    examples = tuple(f"{row.place}: {shortened(row.instruction)} → {shortened(row.text)}" for row in rows)
    return Finding(name, what, len(places), checked, most, examples, note)


def plain_words(row: ForeignRow) -> str:
    """Give the instruction without case and punctuation."""
    return " ".join(words(row.instruction))
