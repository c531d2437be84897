"""The words that tell authors apart: log-odds with an informative Dirichlet prior (Monroe et al. 2008)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from llmtwin_data.languages import terms, words

if TYPE_CHECKING:
    import pandas

# A word counts once a content, so that one long content cannot make a word typical of its author.
FEWEST_CONTENTS = 2
# Shorter words of spaced scripts are mostly grammar ("of", "la"); CJK terms are two characters long.
FEWEST_LETTERS = 4
# Weight of the prior: as if each author had written this many more words like everyone's.
PRIOR_WORDS = 500.0


def telling_words(texts: Iterable[tuple[str, str]], *, top: int = 8) -> pandas.DataFrame:
    """Rank each author's words by how surely that author uses them more than the others do.

    Parameters
    ----------
    texts
        Author and text of each content.
    top
        Words given for each author, the surest first.

    Returns
    -------
    pandas.DataFrame
        ``author``, ``word``, ``z`` (log-odds over its standard error), ``contents`` that hold the word.
    """
    import pandas

    counts = _contents_with(texts)
    total = sum(counts.values(), Counter())
    rows = [row for author, own in counts.items() for row in _best_words(author, own, total, top)]
    return pandas.DataFrame(rows, columns=["author", "word", "z", "contents"])


def _contents_with(texts: Iterable[tuple[str, str]]) -> Mapping[str, Counter[str]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for author, text in texts:
        counts[author].update({word for word in _words_as_written(text) if _means_something(word)})
    return dict(sorted(counts.items(), key=lambda item: (-sum(item[1].values()), item[0])))


def _words_as_written(text: str) -> list[str]:
    """Give whole words, and pairs of characters of scripts without spaces; terms would lack a plural's s."""
    whole = [word for word in words(text) if len(word) > 1]
    return whole if text.isascii() else whole + [term for term in terms(text) if term[0] >= "\u1100"]


def _means_something(word: str) -> bool:
    return not word.isdigit() and len(word) >= (FEWEST_LETTERS if word[0] < "\u1100" else 2)


def _best_words(
    author: str, own: Counter[str], total: Counter[str], top: int
) -> list[tuple[str, str, float, int]]:
    others = total - own
    if not others:
        return []
    scored = [
        (author, word, round(_surety(word, own, others, total), 2), count)
        for word, count in own.items()
        if count >= FEWEST_CONTENTS
    ]
    ranked = sorted(scored, key=lambda row: (-row[2], row[1]))
    return [row for row in ranked[:top] if row[2] > 0]


def _surety(word: str, own: Counter[str], others: Counter[str], total: Counter[str]) -> float:
    size, own_size, other_size = total.total(), own.total(), others.total()
    prior = PRIOR_WORDS * total[word] / size
    mine, theirs = own[word] + prior, others[word] + prior
    odds = math.log(mine / (own_size + PRIOR_WORDS - mine)) - math.log(
        theirs / (other_size + PRIOR_WORDS - theirs)
    )
    return odds / math.sqrt(1 / mine + 1 / theirs)
