"""Numbers about a pair that need no LLM: grounding, copying, language, length; swaps and candidates."""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmtwin_data.contents import KEY, Content, with_columns
from llmtwin_data.overlaps import NEAR_COPY, shared_windows
from llmtwin_data.params import Params
from llmtwin_data.texts import (
    WINDOW_WORDS,
    estimate_tokens,
    language_matches,
    language_of,
    normal_form,
    script_of,
    terms,
    words,
)

# The columns that measuring adds: dtype, and in which range what. A row without an instruction has none.
MEASURES = {
    # 0.0 to 1.0: the own chunk's BM25 score over the best chunk's. Chunks of equal normal form count as one.
    # These three are missing where nothing can be compared: two languages, no common name.
    "grounding": "float64",
    "grounding_rank": "Int64",  # from 1: place of the own chunk among all, equal scores share one
    "grounding_margin": "float64",  # -1.0 to 1.0: own minus best other score, over the larger
    # 0.0 to 1.0: shares of 8-word windows, as in the overlap check of Brown et al. 2020 (13 words), shortened
    # to the length of an instruction.
    "copied_instruction": "float64",  # of the instruction's windows those that its chunk has
    "copied_content": "float64",  # of the chunk's windows those that the instruction has
    # 0.0 to 1.0: share of other chunks (of ten, where there are fewer) with 0.9 or more of the best score.
    "genericness": "float64",
    "repeats": "Int64",  # from 0: other instructions with the same words in the same order
    "language": "str",  # BCP 47 or und: of the instruction
    "language_asked": "str",  # BCP 47 or und: what was asked for, or the chunk's own
    "language_ok": "boolean",
    "characters": "Int64",  # from 0: code points of the instruction
    "tokens": "Int64",  # from 0: estimated, of instruction and chunk together
    "self_contained": "boolean",  # leans on no text that its reader does not see
}
# Those of them that compare with all chunks.
RETRIEVAL = ["grounding", "grounding_rank", "grounding_margin", "genericness"]

_EN = "post|text|article|content|passage|extract|excerpt|document|snippet|paragraph|readme|repository"
_ES = "texto|publicación|artículo|post|contenido|fragmento|pasaje|documento"
_PT = "texto|publicação|artigo|post|conteúdo|trecho|documento"
_FR = "texte|article|post|publication|contenu|passage|extrait|document"
_DE = "text|beitrag|artikel|post|inhalt|abschnitt|auszug|dokument"
_IT = "testo|articolo|post|contenuto|brano|documento"

# "this post", "the text above", "content number 3": a line is one habit of a language, from a word's start.
_SPACED = (
    rf"(?:this|these|that) (?:{_EN})s?\b(?! (?:type|format|editor|field|generation))",
    rf"(?:above|following|given|provided|preceding|attached) (?:{_EN}|author)s?\b",
    rf"(?:{_EN})s? (?:above|below|provided|given)\b",
    r"the (?:passage|extract|excerpt|snippet|paragraph)\b",
    rf"(?:in|of|from|summari[sz]e|rewrite|according to|based on) the (?:{_EN})(?=[.,;:?!]|$)",
    rf"the (?:{_EN}|author)(?:'s main| (?:say|describe|discusse|mention|provide|state|argue)s?)\b",
    r"(?:content|text|post|chunk) (?:number|no\.?|#) ?\d*",
    rf"(?:est[ea]|dich[oa]) (?:{_ES})\b|(?:{_ES}) (?:anterior|siguiente|de arriba)\b|contenido número\b",
    rf"(?:n?est[ea]|dest[ea]) (?:{_PT})\b|(?:{_PT}) (?:acima|abaixo|a seguir)\b|conteúdo número\b",
    rf"(?:ce|cet|cette) (?:{_FR})\b|(?:{_FR}) (?:ci-dessus|ci-dessous|suivant|précédent)e?\b",
    r"contenu numéro\b",
    rf"(?:diese[rmns]?|obige[nrs]?|folgende[nrs]?|vorliegende[nrs]?) (?:{_DE})(?:e?s)?\b|inhalt nummer\b",
    rf"quest[oa] (?:{_IT})\b|(?:{_IT}) (?:sopra|precedente|seguente)\b|contenuto numero\b",
)
# 本文 also stands inside 日本文化 and 版本文件, 文中 inside 中文中, hence the lookarounds.
_SPACELESS = (
    r"(?<![日版基腳脚課课樣样])本文(?![化件學学明])|(?<!基)本篇",
    r"[這这](?:篇|則|则|段)(?:文章|貼文|贴文|帖子|內容|内容|文字|文本)?|[這这]個?个?儲存庫",
    r"(?:上述|以上|上面|下列|以下|給定|给定)的?(?:文章|貼文|贴文|帖子|內容|内容|文字|文本)",
    r"(?<![中英日法德韓韩俄西])文中|上文|原文|[該该](?:文章|貼文|帖子|文)",
    r"[內内]容[編编][號号]|第\s?\d+\s?[則则篇段]",
    r"(?:この|上記の|以下の|前述の|本)(?:記事|投稿|文章|テキスト|内容|文書)|コンテンツ番号",
    r"(?:이|위의?|다음|해당) ?(?:글|게시물|기사|텍스트|내용|문서)(?=[은는이가을를의에\s.,?!]|$)|본문|본 글",
)
_IN_SPACED = re.compile(rf"\b(?:{'|'.join(_SPACED)})")
_IN_SPACELESS = re.compile("|".join(_SPACELESS))


def leans_on_text(instruction: str) -> bool:
    """Tell whether an instruction refers to a text its reader lacks ("summarise this post")."""
    if _IN_SPACED.search(instruction.lower()):
        return True
    return not instruction.isascii() and _IN_SPACELESS.search(instruction) is not None


# Okapi BM25 as in Robertson and Zaragoza (2009), with Lucene's idf, which is never negative.
TERM_SATURATION = 1.2
LENGTH_WEIGHT = 0.75
# Weights are integers, so that sums, ties and ranks are the same on every machine.
UNITS = 1000
# A chunk fits an instruction "as well" from this share of the best chunk's score.
AS_WELL = 0.9
# In a smaller set one near-copy of the own chunk would look like half of all chunks.
FEWEST_OTHERS = 10
# Characters kept of a word: cutting is a stemmer that needs no language (McNamee and Mayfield 2004).
STEM_CHARS = 6

# A term is common when it is in one chunk of so many.
COMMON = 8

Weights = NDArray[np.int32]
Posting = tuple[NDArray[np.int64] | None, Weights]


class ChunkIndex:
    """The chunks' weights for those terms that instructions use; chunks are added one by one."""

    def __init__(self, instructions: Sequence[str]) -> None:
        self._vocabulary: dict[str, int] = {}
        self._queries = [self._query(instruction) for instruction in instructions]
        self._documents: dict[bytes, int] = {}
        self._document_of = array("i")
        self._terms = array("i")
        self._counts = array("i")
        self._sizes = array("i")
        self._lengths = array("i")

    def add(self, text: str) -> None:
        """Add the next chunk; one of equal normal form that was seen before costs nothing."""
        form = normal_form(text).encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(form, digest_size=12).digest()
        document = self._documents.setdefault(digest, len(self._documents))
        self._document_of.append(document)
        if document == len(self._lengths):
            self._add_terms(stems(text))

    def ground(self, owners: Sequence[int]) -> pd.DataFrame:
        """Return the columns `RETRIEVAL`; ``owners`` has the position of each own chunk as it was added."""
        scored = zip(self._scores(), owners, strict=True)
        rows = [_retrieval(scores, self._document_of[owner]) for scores, owner in scored]
        return pd.DataFrame(rows, columns=RETRIEVAL)

    def best(self) -> list[int | None]:
        """Give for each instruction the distinct chunk it fits best, by number; None where it fits none."""
        return [int(scores.argmax()) if scores.any() else None for scores in self._scores()]

    def _scores(self) -> Iterator[Weights]:
        """Yield the scores of all distinct chunks for one instruction after the other, in one array."""
        postings = self._postings()
        scores = np.zeros(len(self._lengths), dtype=np.int32)
        for query in self._queries:
            scores.fill(0)
            for documents, weights in map(postings.__getitem__, query):
                if documents is None:
                    scores += weights
                else:
                    np.add.at(scores, documents, weights)
            yield scores

    def _query(self, instruction: str) -> list[int]:
        known = self._vocabulary
        return [known.setdefault(term, len(known)) for term in dict.fromkeys(stems(instruction))]

    def _add_terms(self, found: list[str]) -> None:
        known = self._vocabulary
        counts = Counter([known[term] for term in found if term in known])
        self._terms.extend(counts.keys())
        self._counts.extend(counts.values())
        self._sizes.append(len(counts))
        self._lengths.append(len(found))

    def _postings(self) -> list[Posting]:
        if not self._vocabulary:
            return []
        lengths = np.array(self._lengths, dtype=np.float64)
        norms = TERM_SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * lengths / max(lengths.mean(), 1.0))
        found = np.array(self._terms, dtype=np.int32)
        order = np.argsort(found, kind="stable")
        cuts = np.searchsorted(found[order], np.arange(1, len(self._vocabulary)))
        documents = np.repeat(np.arange(len(lengths)), np.array(self._sizes))[order]
        counts = np.array(self._counts, dtype=np.int32)[order]
        by_term = zip(np.split(documents, cuts), np.split(counts, cuts), self._rarities(), strict=True)
        return [
            _posting(held, _weights(times, norms[held], len(norms), rarity), total=len(norms))
            for held, times, rarity in by_term
        ]

    def _rarities(self) -> list[float]:
        """Weigh a term by how few instructions use it: "write a post about" tells nothing, 0.0 to 1.0."""
        used = Counter(term for query in self._queries for term in query)
        total = len(self._queries)
        highest = math.log((total + 1) / 1.5)
        return [math.log((total + 1) / (used[term] + 0.5)) / highest for term in range(len(self._vocabulary))]


def stems(text: str) -> list[str]:
    """Give the retrieval terms of a text, words cut to their first characters."""
    return [term[:STEM_CHARS] for term in terms(text)]


def _posting(documents: NDArray[np.int64], weights: Weights, *, total: int) -> Posting:
    """Spread a common term's weights over all chunks, which is faster than looking its chunks up."""
    if len(documents) < total / COMMON:
        return documents, weights
    spread = np.zeros(total, dtype=np.int32)
    spread[documents] = weights
    return None, spread


def _weights(counts: NDArray[np.int32], norms: NDArray[np.float64], total: int, rarity: float) -> Weights:
    idf = math.log(1 + (total - len(counts) + 0.5) / (len(counts) + 0.5))
    saturated = counts * (TERM_SATURATION + 1) / (counts + norms)
    return np.rint(UNITS * rarity * idf * saturated).astype(np.int32)


def _retrieval(scores: Weights, document: int) -> tuple[float, int, float, float]:
    own, best = int(scores[document]), int(scores.max())
    rank = 1 + int(np.count_nonzero(scores > own))
    as_well = int(np.count_nonzero(scores >= math.ceil(AS_WELL * best)))
    scores[document] = 0
    other = int(scores.max())
    return (
        round(own / best, 4) if best else 0.0,
        rank,
        round((own - other) / max(own, other, 1), 4),
        round((as_well - 1) / max(len(scores) - 1, FEWEST_OTHERS), 4),
    )


# Two instructions are taken for exchanged when both together fit each other's chunks better by this factor.
EXCHANGE_FACTOR = 1.1
# One instruction is taken for another chunk's when it fits that one better by this factor.
STRAY_FACTOR = 3.0

Bag = Counter[str]


def ground_among(instruction: str, own: str, mates: Sequence[str]) -> float:
    """Give the own chunk's score over the best score among own chunk and batch-mates, 0.0 to 1.0.

    0.0 also where the instruction shares no term with any of them.
    """
    return weigh_among(instruction, own, mates)[0]


def weigh_among(instruction: str, own: str, others: Iterable[str]) -> tuple[float, float]:
    """Give what `ground_among` does, and the weight of the terms shared with the own chunk, from 0.0."""
    bags = [_bag(own), *(_bag(other) for other in dict.fromkeys(others) if other != own)]
    scores = _scores(set(stems(instruction)), bags)
    best = max(scores)
    return round(scores[0] / best, 4) if best else 0.0, round(scores[0], 4)


def find_swapped(instructions: Sequence[str], texts: Sequence[str]) -> list[int]:
    """Give the positions whose instructions look exchanged, or written for another text of the batch."""
    bags = [_bag(text) for text in texts]
    queries = _telling([set(stems(instruction)) for instruction in instructions])
    table = [_scores(query, bags) for query in queries]
    swapped = {
        place for one, other in combinations(range(len(texts)), 2) for place in _exchanged(table, one, other)
    }
    return sorted(swapped | {place for place, row in enumerate(table) if _strays(row, place)})


def _exchanged(table: Sequence[Sequence[float]], one: int, other: int) -> tuple[int, ...]:
    kept = table[one][one] + table[other][other]
    crossed = table[one][other] + table[other][one]
    better_each = table[one][other] >= table[one][one] and table[other][one] >= table[other][other]
    return (one, other) if better_each and crossed > EXCHANGE_FACTOR * kept else ()


def _strays(row: Sequence[float], place: int) -> bool:
    return max(row) > STRAY_FACTOR * row[place] and max(row) >= 1.0


def _telling(queries: Sequence[set[str]]) -> list[set[str]]:
    """Leave out the terms that at least half of the batch's instructions use ("write", "post")."""
    used = Counter(term for query in queries for term in query)
    return [{term for term in query if 2 * used[term] < len(queries) or used[term] == 1} for query in queries]


def _scores(query: Iterable[str], bags: Sequence[Bag]) -> list[float]:
    scores = [0.0] * len(bags)
    for term in sorted(query):
        counts = [bag.get(term, 0) for bag in bags]
        holders = len(bags) - counts.count(0)
        if holders:
            weight = _weight(term) * math.log(1 + (len(bags) - holders + 0.5) / (holders + 0.5))
            scores = [
                score + weight * count / (count + TERM_SATURATION)
                for score, count in zip(scores, counts, strict=True)
            ]
    return scores


def _weight(term: str) -> float:
    """Weigh a spaced word by its length: among eight chunks a function word looks as rare as a name."""
    return min(len(term), 6) / 6 if term.isascii() else 1.0


@lru_cache(maxsize=1024)
def _bag(text: str) -> Bag:
    return Counter(stems(text))


def origins_of(texts: Sequence[str], contents: Sequence[Content]) -> list[str | None]:
    """Give for each text the content that holds at least half of its windows, or None."""
    if not contents:
        return [None] * len(texts)
    windows = shared_windows([*texts, *(content.text for content in contents)])
    is_content = np.arange(len(windows.sizes)) >= len(texts)
    held = windows.held_by(is_content)
    origins: list[str | None] = []
    for number in range(len(texts)):
        counts = held.counts(number)
        best = int(counts.argmax())
        enough = counts[best] > 0 and counts[best] >= NEAR_COPY * windows.sizes[number]
        origins.append(_name(contents[best - len(texts)]) if enough else None)
    return origins


def coverage_of(queries: Sequence[str], texts: Sequence[str]) -> tuple[int, float]:
    """Give how many texts are the best match of some query, and how many so many random draws would reach.

    A set written without its sources keeps coming back to a few texts: 2,500 published instructions reached
    177 of 424 chunks, a control reached 395.
    """
    index = ChunkIndex(queries)
    for text in texts:
        index.add(text)
    reached = {best for best in index.best() if best is not None}
    total = len(set(texts))
    return len(reached), total * (1 - (1 - 1 / max(total, 1)) ** len(queries))


def _name(content: Content) -> str:
    return f"{content.collection}/{content.id}"


# Characters of a content that its language and script are read from.
LANGUAGE_CHARS = 200
# Words; a candidate outside of this is a fragment or an essay, not a request.
CANDIDATE_WORDS = (4, 80)
# Share of different words; a small model that loops falls below ("a phone, a phone, a phone").
FRESH_WORDS = 0.5


def with_measures(ledger: pd.DataFrame, settings: Params) -> pd.DataFrame:
    """Return the table with the columns `MEASURES` of each instruction.

    Needs ``instruction``, ``content``, ``k`` and ``state``. Grounding and repeats compare with all, so the
    step is of the whole; everything else is by row.
    """
    pairs = ledger[ledger.instruction.notna()]
    texts = ledger[(ledger.k == 1) & (ledger.state != "skipped")]
    places = pd.Series(range(len(texts)), index=pd.MultiIndex.from_frame(texts[KEY]))
    columns = measure_pairs(
        pairs.instruction.tolist(),
        places.loc[pd.MultiIndex.from_frame(pairs[KEY])].tolist(),
        texts.content.tolist(),
        asked_language=settings.instruction_language,
    )
    return with_columns(ledger, columns.set_axis(pairs.index))


def measure_pairs(
    instructions: Sequence[str], owners: Sequence[int], texts: Sequence[str], *, asked_language: str
) -> pd.DataFrame:
    """Return the columns `MEASURES`: each instruction against its own chunk, and against all chunks.

    Parameters
    ----------
    owners
        For each instruction the position of its chunk in ``texts``.
    texts
        All chunks; read once, in order, so they may stay on disk.
    asked_language
        A BCP 47 tag, or ``same`` for the language of each chunk.
    """
    written = defaultdict(list)
    for position, owner in enumerate(owners):
        written[owner].append(position)
    index, alone = ChunkIndex(instructions), dict[int, dict[str, Any]]()
    for place, text in enumerate(texts):
        index.add(text)
        for position in written.get(place, ()):
            alone[position] = _measure_alone(instructions[position], text, asked_language)
    rows = [alone[position] for position in range(len(instructions))]
    table = pd.DataFrame(rows, columns=[*MEASURES, "foreign"])
    table[RETRIEVAL] = index.ground(owners)
    # Across languages only names and numbers can be found again; none found says nothing.
    unknown = table.foreign.astype(bool) & (table.grounding == 0)
    table[RETRIEVAL] = table[RETRIEVAL].mask(unknown)
    table["genericness"] = table.genericness.fillna(0.0)
    spoken = [" ".join(words(instruction)) for instruction in instructions]
    uttered = Counter(spoken)
    table["repeats"] = [uttered[each] - 1 for each in spoken]
    return table[list(MEASURES)].astype(MEASURES)


def copied_fractions(instruction: str, content: str) -> tuple[float, float]:
    """Give the share of the instruction's 8-word windows found in the content, and of the content's in it."""
    asked, told = _spoken(instruction), _spoken(content)
    back = _copied(asked, told)
    return back, _copied(told, asked) if back or len(told) < WINDOW_WORDS else 0.0


def choose_candidate(
    candidates: Sequence[str], own: str, others: Sequence[str], *, prompt_words: str = ""
) -> int:
    """Give the position of the candidate that is a request, not a quotation, and fits its own chunk best.

    Judged by the chunk ``own`` and these others only, so that the choice can be stored with the answer; of
    those that fit it equally well, the one that shares most telling words with it.

    Parameters
    ----------
    prompt_words
        What the model was told; a candidate that repeats it, as small models do with examples, is no request.
    """
    ranked = [
        (_is_request(candidate, own, prompt_words), *weigh_among(candidate, own, others), -place)
        for place, candidate in enumerate(candidates)
    ]
    return -max(ranked)[3]


def _is_request(candidate: str, own: str, prompt_words: str) -> bool:
    said, (least, most) = words(candidate), CANDIDATE_WORDS
    fits = least <= len(said) <= most and len(set(said)) >= FRESH_WORDS * len(said)
    copied = max(*copied_fractions(candidate, own), copied_fractions(candidate, prompt_words)[0])
    return fits and copied < 0.5 and not leans_on_text(candidate)


def _measure_alone(instruction: str, text: str, asked_language: str) -> dict[str, Any]:
    copied_instruction, copied_content = copied_fractions(instruction, text)
    opening = text[:LANGUAGE_CHARS]
    found, own = language_of(instruction), language_of(opening)
    asked = own if asked_language == "same" else asked_language
    return {
        "copied_instruction": copied_instruction,
        "copied_content": copied_content,
        "language": found,
        "language_asked": asked,
        "language_ok": language_matches(found, asked),
        "characters": len(instruction),
        "tokens": estimate_tokens(instruction) + estimate_tokens(text),
        "self_contained": not leans_on_text(instruction),
        "foreign": _is_foreign((instruction, found), (opening, own)),
    }


def _is_foreign(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Tell whether two texts, each with its language, may have no word in common."""
    if "und" not in (one[1], other[1]):
        return not language_matches(one[1], other[1])
    # Hant, Hans and Hani (either) share most characters.
    scripts = {script_of(text).replace("Hant", "Hani").replace("Hans", "Hani") for text, _ in (one, other)}
    return len(scripts) > 1


def _spoken(text: str) -> list[str]:
    """Give the words as a reader sees them: without characters that only hide a quotation."""
    return words(text if text.isascii() else normal_form(text))


def _copied(inner: Sequence[str], outer: Sequence[str]) -> float:
    """Look windows up as pieces of one line, which is faster than hashing those of the longer text."""
    size = min(WINDOW_WORDS, len(inner))
    line = f" {' '.join(outer)} "
    windows = {" ".join(inner[start : start + size]) for start in range(len(inner) - size + 1)} - {""}
    return round(sum(f" {window} " in line for window in windows) / max(len(windows), 1), 4)
