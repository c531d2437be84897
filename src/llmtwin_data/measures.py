"""Numbers about a pair that need no LLM: grounding, evidence, copying, language; swaps and candidates."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmtwin_data import embeddings
from llmtwin_data.cluster import HERE, Workers, blocks, by_row, workers_of
from llmtwin_data.contents import KEY, with_columns
from llmtwin_data.params import Params
from llmtwin_data.texts import (
    WINDOW_WORDS,
    counted,
    estimate_tokens,
    form_number,
    language_matches,
    language_of,
    languages_of,
    normal_form,
    prose_language,
    prose_of,
    script_of,
    terms,
    text_number,
    wording,
    words,
)

Rows = Sequence[str] | pd.Series

# The columns that measuring adds: dtype, and in which range what. A row without an instruction has none.
MEASURES = {
    # 0.0 to 1.0: does none of `SAMPLE` other chunks of its language fit better; 1.0: none. docs/measures.md.
    "grounding": "float64",
    "grounding_rank": "Int64",  # from 1: place of the own chunk among all compared, equal scores share one
    "grounding_margin": "float64",  # -1.0 to 1.0: own minus best other score; of words over the larger
    # 0.0 to 1.0: shares of 8-word windows, as in the overlap check of Brown et al. 2020 (13 words), shortened
    # to the length of an instruction.
    "copied_instruction": "float64",  # of the instruction's windows those that its chunk has
    "copied_content": "float64",  # of the chunk's windows those that the instruction has
    # 0.0 to 1.0: share of the same others (of ten, where there are fewer) with 0.9 or more of the best score.
    "genericness": "float64",
    "repeats": "Int64",  # from 0: other instructions with the same words in the same order
    "language": "str",  # BCP 47 or und: of the instruction
    "language_asked": "str",  # BCP 47 or und: what was asked for, or the chunk's own
    "language_ok": "boolean",
    "characters": "Int64",  # from 0: code points of the instruction
    "tokens": "Int64",  # from 0: estimated, of instruction and chunk together
    "self_contained": "boolean",  # leans on no text that its reader does not see
    "evidence": "float64",  # 0.0 to 1.0: does this chunk fit; 0.5 is where the labelled pairs part
    "measured_by": "str",  # words (BM25), embeddings, or empty: grounding and evidence are missing
    "repeated_bigrams": "float64",  # 0.0 to 1.0: share of the instruction's word pairs that it said before
}
# Those of them that compare with other chunks, by words.
RETRIEVAL = ["grounding", "grounding_rank", "grounding_margin", "genericness"]

# What is told of a text by itself: its language, and a number that texts of equal normal form have in common.
OF_TEXTS = ["text_language", "document"]

# Telling terms that instruction and chunk share, `ground` counts them. Of the labelled set's first half good
# instructions have 4.8 or more, vague, swapped and those off topic at most 2.3.
LEAST_TELLING = 3.0
# Distinct chunks of a language that instructions are grounded in, beside their own.
SAMPLE = 20_000
# Pairs of the set by which embeddings learn what is unrelated.
BACKGROUND = 200


def with_measures(
    ledger: pd.DataFrame, settings: Params, *, encode: embeddings.Encode | None = embeddings.encode_packaged
) -> pd.DataFrame:
    """Return the table with the columns `MEASURES` of each instruction.

    Needs ``instruction``, ``content``, ``k`` and ``state``, and uses `OF_TEXTS` where they are. Grounding,
    evidence and repeats compare with others, so the step is of the whole; everything else is by row.
    """
    pairs = ledger.loc[ledger.instruction.notna(), [*KEY, "instruction"]]
    is_text = (ledger.k == 1) & (ledger.state != "skipped")
    keys, texts = pd.MultiIndex.from_frame(ledger.loc[is_text, KEY]), ledger.filter(["content", *OF_TEXTS])
    columns = measure_pairs(
        pairs.instruction,
        keys.get_indexer(pd.MultiIndex.from_frame(pairs[KEY])),
        texts if is_text.all() else texts[is_text],  # all texts are not copied for nothing
        asked_language=settings.instruction_language,
        encode=encode if settings.embedding_model != "off" else None,
        workers=workers_of(len(ledger), settings.cluster),
    )
    return with_columns(ledger, columns.set_axis(pairs.index))


def with_texts_told(chunks: pd.DataFrame, settings: Params) -> pd.DataFrame:
    """Return the table with `OF_TEXTS`, for texts that pairs are measured against more than once. By row."""
    workers = workers_of(len(chunks), settings.cluster)
    return with_columns(chunks, by_row(chunks[["content"]], _measured_texts, workers=workers))


def measured_counts(ledger: pd.DataFrame) -> dict[str, int]:
    """Count the pairs by what they were measured by; ``nothing`` where nothing says whether they fit."""
    counts = ledger.measured_by[ledger.instruction.notna()].replace("", "nothing").value_counts()
    return {by: int(counts.get(by, 0)) for by in ("words", "embeddings", "nothing")}


def measured_words(counts: Mapping[str, int]) -> str:
    """Return what `measured_counts` counted in a line."""
    parts = ", ".join(f"{count:,} by {by}" for by, count in counts.items())
    return f"Measured: {parts}, of {counted(sum(counts.values()), 'pair')}."


def measure_pairs(
    instructions: Rows,
    owners: Sequence[int] | NDArray[np.int64],
    texts: Rows | pd.DataFrame,
    *,
    asked_language: str,
    encode: embeddings.Encode | None,
    workers: Workers = HERE,
) -> pd.DataFrame:
    """Return the columns `MEASURES`: each instruction against its own chunk, and others of its language.

    Words measure where instruction and chunk share a language and enough words, embeddings where they do not.
    ``owners`` has for each instruction the position of its chunk in ``texts``, which are all chunks, or a
    table of their ``content``, with `OF_TEXTS` where that is known;
    ``asked_language`` is a BCP 47 tag, or ``same`` for the language of each chunk.
    """
    pairs, chunks = _column(instructions).to_frame("instruction"), _told(texts, workers)
    pairs["owner"] = np.asarray(owners, dtype=np.int64)
    own = ((block.instruction, chunks.iloc[block.owner]) for block in blocks(pairs))
    table = pd.concat(workers.map(_measured_pairs, own, given=(asked_language,)))
    spoken, foreign = table.pop("spoken"), table.pop("foreign")
    table = table.reindex(columns=list(MEASURES)).astype(MEASURES).assign(measured_by="")
    table["repeats"] = spoken.map(spoken.value_counts()) - 1
    # Without the script: Traditional and Simplified Chinese share most characters.
    groups = np.array([language.partition("-")[0] for language in chunks.text_language], dtype=object)
    alike = pairs[~foreign]
    for group, of_group in alike.groupby(groups[alike.owner]):
        # Where no language could be told, all are compared with all.
        places = np.flatnonzero((groups == group) | (groups == "und") | (str(group) == "und"))
        grounded = _ground(of_group, chunks, places, most=SAMPLE, workers=workers)
        evidence = (grounded.telling / (2 * LEAST_TELLING)).clip(upper=1).round(4)
        grounded = grounded[RETRIEVAL].assign(evidence=evidence, measured_by="words")
        table.loc[grounded.index, grounded.columns] = grounded
    thin = table[foreign | (table.evidence < 0.5)]
    if encode and len(thin):
        # What is unrelated is measured on the whole set, not on its weakest instructions alone.
        usual = table.sample(min(len(table), BACKGROUND), random_state=0)
        compared = table.loc[thin.index.union(usual.index)]
        columns = embeddings.compare(
            pairs.instruction[compared.index].tolist(),
            pairs.owner[compared.index].tolist(),
            chunks.content,
            kinds=compared.language.tolist(),
            groups=groups.tolist(),
            encode=encode,
        ).set_axis(compared.index)
        # A vector may be missing.
        thin = thin[columns.evidence[thin.index].notna()]
        # Both look for a chunk that fits better; where words find the own chunk, they need not agree.
        by_words = thin.grounding > columns.grounding[thin.index]
        table.loc[thin.index, columns.columns] = columns.loc[thin.index]
        table.loc[thin.index[by_words], RETRIEVAL] = thin.loc[by_words, RETRIEVAL]
        table.loc[thin.index, "measured_by"] = "embeddings"
    return table.fillna({"genericness": 0.0}).astype(MEASURES)


def _column(texts: Rows) -> pd.Series[str]:
    # A list is left as it is: half of a surrogate pair is no string for Arrow.
    return texts.reset_index(drop=True) if isinstance(texts, pd.Series) else pd.Series(texts, dtype=object)


def _told(texts: Rows | pd.DataFrame, workers: Workers) -> pd.DataFrame:
    """Return texts as a table with `OF_TEXTS`, which are told where they are not known."""
    table = texts if isinstance(texts, pd.DataFrame) else _column(texts).to_frame("content")
    table = table.reset_index(drop=True)
    return table if "document" in table else table.join(by_row(table, _measured_texts, workers=workers))


def _measured_texts(block: pd.DataFrame) -> pd.DataFrame:
    """Return the language of each chunk, and the number of what it says."""
    languages, documents = languages_of([*map(prose_of, block.content)]), [*map(form_number, block.content)]
    columns = [pd.array(languages, dtype="str"), np.array(documents, np.uint64)]
    return pd.DataFrame(dict(zip(OF_TEXTS, columns, strict=True)), index=block.index)


def _measured_pairs(block: tuple[pd.Series[str], pd.DataFrame], asked_language: str) -> pd.DataFrame:
    """Return the measures of instructions that need only them and their own chunks."""
    instructions, own, written = block[0].tolist(), block[1].content.tolist(), block[1].text_language.tolist()
    spoken = languages_of(instructions)
    asked = written if asked_language == "same" else [asked_language] * len(own)
    copied = np.array([*map(copied_fractions, instructions, own)]).reshape(-1, 2)
    columns = {
        "copied_instruction": copied[:, 0],
        "copied_content": copied[:, 1],
        "repeated_bigrams": np.array([*map(repeated_bigrams, instructions)], dtype=np.float64),
        "language": pd.array(spoken, dtype="str"),
        "language_asked": pd.array(asked, dtype="str"),
        "language_ok": np.array([*map(language_matches, spoken, asked)], dtype=bool),
        "characters": np.array([*map(len, instructions)], dtype=np.int64),
        "tokens": np.array([*map(estimate_tokens, instructions)], dtype=np.int64)
        + np.array([*map(estimate_tokens, own)], dtype=np.int64),
        "self_contained": ~np.array([*map(leans_on_text, instructions)], dtype=bool),
        "foreign": np.array([*map(is_foreign, instructions, spoken, own, written)], dtype=bool),
        "spoken": np.array([text_number(wording(each)) for each in instructions], dtype=np.uint64),
    }
    return pd.DataFrame(columns, index=block[0].index)


def is_foreign(instruction: str, language: str, text: str, own_language: str) -> bool:
    """Return whether two texts of these languages may have no word in common."""
    if "und" not in (language, own_language):
        return not language_matches(language, own_language)
    # Hant, Hans and Hani (either) share most characters.
    scripts = {re.sub("Han[ts]", "Hani", script_of(each)) for each in (instruction, prose_of(text))}
    return len(scripts - {"Zyyy"}) > 1


# Share of an instruction's word pairs; of 630 written ones none has more than 0.08.
MAX_REPEATED_BIGRAMS = 0.1


def repeated_bigrams(instruction: str) -> float:
    """Return the share of an instruction's word pairs that it has said before, 0.0 to 1.0."""
    bigrams = list(pairwise(words(instruction)))
    return round(1 - len(set(bigrams)) / len(bigrams), 4) if bigrams else 0.0


def copied_fractions(instruction: str, content: str) -> tuple[float, float]:
    """Return the share of the instruction's 8-word windows in the content, and of the content's in it."""
    # As a reader sees them: without characters that only hide a quotation.
    asked, answer = (words(text if text.isascii() else normal_form(text)) for text in (instruction, content))
    back = _copied(asked, answer)
    return back, _copied(answer, asked) if back or len(answer) < WINDOW_WORDS else 0.0


def _copied(inner: Sequence[str], outer: Sequence[str]) -> float:
    """Look windows up as pieces of one line, which is faster than hashing those of the longer text."""
    size = min(WINDOW_WORDS, len(inner))
    line = f" {' '.join(outer)} "
    windows = {" ".join(inner[start : start + size]) for start in range(len(inner) - size + 1)} - {""}
    return round(sum(f" {window} " in line for window in windows) / max(len(windows), 1), 4)


_EN = "post|text|article|content|passage|extract|excerpt|document|snippet|paragraph|readme|repository"
_ES = "texto|publicación|artículo|post|contenido|fragmento|pasaje|documento"
_PT = "texto|publicação|artigo|post|conteúdo|trecho|documento"
_FR = "texte|article|post|publication|contenu|passage|extrait|document"
_DE = "text|beitrag|artikel|post|inhalt|abschnitt|auszug|dokument"
_IT = "testo|articolo|post|contenuto|brano|documento"

# "this post", "the text above", "content number 3": a line is one habit of a language, from a word's start.
_SPACED = (
    rf"(?:this|these|that) (?:{_EN})s?\b(?! (?:type|format|editor|field|generation))",
    rf"(?:above|following|given|provided|preceding|attached) (?:(?:{_EN})s?|authors?(?!s?: [^.?!]+\.?$))\b",
    rf"(?:{_EN})s? (?:above|below|provided|given)\b",
    r"the (?:passage|extract|excerpt|snippet|paragraph)\b(?! (?:elements?|tags?)\b)",
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
    """Return whether an instruction refers to a text its reader lacks ("summarise this post")."""
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


def ground(
    instructions: Sequence[str],
    texts: Sequence[str],
    owners: Sequence[int] | None = None,
    *,
    most: int = SAMPLE,
) -> pd.DataFrame:
    """Return the columns `RETRIEVAL`, ``best`` and two of ``telling`` of each instruction.

    ``best`` (Int64) is the position of the text that it fits best, the first of equals, missing where it fits
    none. ``telling`` (from 0.0) counts the terms that an instruction shares with its own chunk, each by how
    rare it is among chunks and instructions: a name that no other chunk has counts 1, "write a post" next to
    0; ``best_telling`` counts those that it shares with the best one, and says with ``best`` all that there
    is without ``owners``, the positions of the own chunks. An instruction is compared with its own chunk and
    with ``most`` others: of more texts those with the least hashes, so that the same are drawn in any order,
    and new texts change few of them.
    """
    pairs, chunks = _column(instructions).to_frame("instruction"), _column(texts).to_frame("content")
    chunks["document"] = np.array([*map(form_number, chunks.content)], dtype=np.uint64)
    pairs["owner"] = np.zeros(len(pairs), np.int64) if owners is None else np.asarray(owners, np.int64)
    return _ground(pairs, chunks, np.arange(len(chunks)), most=most, workers=HERE)


def _ground(
    pairs: pd.DataFrame, chunks: pd.DataFrame, places: NDArray[np.int64], *, most: int, workers: Workers
) -> pd.DataFrame:
    """Ground pairs (``instruction``, ``owner``) in the chunks (``content``, ``document``) at these places."""
    documents = chunks.document.to_numpy()
    drawn = np.sort(places[np.unique(documents[places], return_index=True)[1][:most]])
    users = Counter[str]()
    for counts in workers.map(_users, blocks(pairs)):
        users.update(counts)
    index, numbers = _index(users, len(pairs), chunks.content.iloc[drawn]), pd.Index(documents[drawn])

    def parts() -> Iterator[pd.DataFrame]:
        for block in blocks(pairs):
            own = chunks.iloc[block.owner]
            number = numbers.get_indexer(pd.Index(own.document))
            # A chunk that was not drawn comes along; it counts as one more behind the others.
            text = own.content.where(number < 0, "").array
            yield block.assign(own=text, number=np.where(number < 0, len(drawn), number))

    columns = pd.concat(workers.map(_grounded, parts(), given=(index,)))
    best = np.where(columns.best == len(drawn), pairs.owner, np.append(drawn, -1)[columns.best])
    return columns.assign(best=pd.Series(best, columns.index, "Int64").where(columns.best >= 0))


def _grounded(block: pd.DataFrame, index: _Index) -> pd.DataFrame:
    """Return the columns of `ground`; of ``best`` the number among the drawn texts, -1 for none."""
    total, rows = index.total, []
    all_scores = np.zeros(total + 1, dtype=np.int32)
    for instruction, document, text in zip(block.instruction, block.number.tolist(), block.own, strict=True):
        query = {term: index.numbers.get(term, -1) for term in stems(instruction)}
        own_terms = _bag(text) if document == total else Counter[str]()
        scores = all_scores if document == total else all_scores[:total]
        scores.fill(0)
        for number in query.values():
            if number in index.spread:
                scores[:total] += index.spread[number]
            elif number >= 0:
                held = slice(index.starts[number], index.starts[number + 1])
                scores[index.places[held]] += index.weights[held]
        if document == total:
            scores[document] = index.score(query, own_terms)
        first = int(scores.argmax())
        own, best = int(scores[document]), int(scores[first])
        rank = 1 + int(np.count_nonzero(scores > own))
        as_well = int(np.count_nonzero(scores >= math.ceil(AS_WELL * best)))
        scores[document] = 0
        other = int(scores.max())
        margin = round((own - other) / max(own, other, 1), 4)
        generic = round((as_well - 1) / max(len(scores) - 1, FEWEST_OTHERS), 4)
        telling, best_telling = (index.shared(query, text, own_terms) for text in (document, first))
        fits = first if best else -1
        rows.append(
            (round(own / best, 4) if best else 0.0, rank, margin, generic, fits, telling, best_telling)
        )
    return pd.DataFrame(rows, columns=[*RETRIEVAL, "best", "telling", "best_telling"], index=block.index)


@dataclass(frozen=True, slots=True)
class _Index:
    """The drawn texts: who holds a term, by weight, and what each holds of what instructions ask for."""

    numbers: dict[str, int]  # of the terms that instructions use and a drawn text holds
    users: dict[str, int]  # of the others: how many instructions use it, where more than one does
    asked: int  # instructions
    total: int  # drawn texts
    mean: float  # terms of a text
    factors: array[float]  # of each term
    telling: array[float]
    starts: array[int]  # where a term's texts begin in places and weights, and where the last one's end
    places: NDArray[np.int32]
    weights: NDArray[np.int32]
    spread: dict[int, NDArray[np.int32]]  # common terms' weights in all: adding all is faster than some
    held_starts: array[int]
    held: NDArray[np.int32]  # the terms of each text

    def score(self, query: Mapping[str, int], terms: Counter[str]) -> int:
        """Return the score of the text of these terms, which was not drawn."""
        size, weight = terms.total(), 0
        for term in query.keys() & terms.keys():
            weight += round(self.weigh(term, query[term])[0] * _saturated(terms[term], size, self.mean))
        return weight

    def shared(self, query: Mapping[str, int], document: int, terms: Counter[str]) -> float:
        """Return how many telling terms a text has of the query; the one behind the drawn has these."""
        if document == self.total:
            return sum(self.weigh(term, number)[1] for term, number in query.items() if term in terms)
        held = set(self.held[self.held_starts[document] : self.held_starts[document + 1]].tolist())
        return sum(self.telling[number] for number in query.values() if number in held)

    def weigh(self, term: str, number: int) -> tuple[float, float]:
        """Return what a term adds to a score, and how telling it is: that no drawn text has as if one had."""
        if number >= 0:
            return self.factors[number], self.telling[number]
        return _weigh(term, self.users.get(term, 1), self.asked, 1, self.total)


def _users(block: pd.DataFrame) -> Counter[str]:
    """Count the instructions that use a term."""
    return Counter(term for instruction in block.instruction for term in set(stems(instruction)))


def _index(users: Counter[str], asked: int, texts: Iterable[str]) -> _Index:
    """Return the index of texts, of the terms that so many of the asked instructions use."""
    numbers, lengths, ends = dict[str, int](), array("i"), array("i", [0])
    held, counts = array("i"), array("i")
    for text in texts:
        spoken = stems(text)
        times = Counter([term for term in spoken if term in users])
        held.extend([numbers.setdefault(term, len(numbers)) for term in times])
        counts.extend(times.values())
        lengths.append(len(spoken))
        ends.append(len(held))
    total, terms_held = len(lengths), np.array(held, dtype=np.int32)
    size = np.array(lengths, dtype=np.float64)
    mean = float(max(size.mean() if total else 0, 1))
    order = np.argsort(terms_held, kind="stable")
    places = np.repeat(np.arange(total, dtype=np.int32), np.diff(ends))[order]
    often = np.array(counts, dtype=np.float64)[order]
    holders = np.bincount(terms_held, minlength=len(numbers))
    weighed = [
        _weigh(term, users[term], asked, count, total)
        for term, count in zip(numbers, holders.tolist(), strict=True)
    ]
    factors, telling = array("d", [each[0] for each in weighed]), array("d", [each[1] for each in weighed])
    weights = np.repeat(factors, holders) * _saturated(often, size[places], mean)
    weights = np.rint(weights).astype(np.int32)
    starts = array("l", np.append(0, np.cumsum(holders)).tolist())
    spread = dict[int, NDArray[np.int32]]()
    for number in np.flatnonzero(holders >= total / COMMON).tolist():
        of_term = slice(starts[number], starts[number + 1])
        spread[number] = np.bincount(places[of_term], weights[of_term], total).astype(np.int32)
    others = {term: count for term, count in users.items() if count > 1 and term not in numbers}
    return _Index(
        numbers, others, asked, total, mean, factors, telling, starts, places, weights, spread, ends,
        terms_held,
    )  # fmt: skip


def _saturated(often: Any, size: Any, mean: float) -> Any:
    """Return how much a term counts that so long a text holds so often."""
    norm = TERM_SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * size / mean)
    return often * (TERM_SATURATION + 1) / (often + norm)


def _weigh(term: str, users: int, asked: int, holders: int, total: int) -> tuple[float, float]:
    """Return what a term that so many hold and use counts in a score, and how telling it is."""
    # A term weighs by how few instructions use it: "write a post about" tells nothing, 0.0 to 1.0.
    rarity = math.log((asked + 1) / (users + 0.5)) / math.log((asked + 1) / 1.5)
    idf = _idf(total, holders)
    return UNITS * rarity * idf, rarity * idf / _idf(total, 1) * _telling_length(term)


def _idf(total: int, holders: int) -> float:
    return math.log(1 + (total - holders + 0.5) / (holders + 0.5))


def _telling_length(term: str) -> float:
    """Return a term's weight by its length: among few chunks a function word looks as rare as a name."""
    return min(len(term), STEM_CHARS) / STEM_CHARS if term.isascii() else 1.0


def stems(text: str) -> list[str]:
    """Return the retrieval terms of a text, words cut to their first characters."""
    return [term[:STEM_CHARS] for term in terms(text)]


# Two instructions are taken for exchanged when both together fit each other's chunks better by this factor.
EXCHANGE_FACTOR = 1.1
# One instruction is taken for another chunk's when it fits that one better by this factor.
STRAY_FACTOR = 3.0


def find_swapped(
    instructions: Sequence[str], texts: Sequence[str], *, asked_language: str = "same"
) -> list[int]:
    """Return the positions whose instructions look exchanged, or written for another text of the batch.

    Where one language was asked for, an instruction is compared with texts of its own language alone: names
    that it shares with others say nothing. ``same`` needs no such care: another language is a sign by itself.
    """
    bags = [_bag(text) for text in texts]
    queries = [set(stems(instruction)) for instruction in instructions]
    # What at least half of the batch's instructions use ("write", "post") tells nothing.
    used = Counter(term for query in queries for term in query)
    common = {term for term, times in used.items() if 2 * times >= len(queries) and times > 1}
    fit = np.array([_fit(query - common, bags) for query in queries])
    suspects = _suspects(fit)
    if not suspects or asked_language == "same":
        return suspects
    spoken, written = map(language_of, instructions), [*map(prose_language, texts)]
    foreign = np.array(
        [
            [is_foreign(instruction, language, *own) for own in zip(texts, written, strict=True)]
            for instruction, language in zip(instructions, spoken, strict=True)
        ]
    )
    fit[foreign | foreign.diagonal()[:, None]] = 0.0
    return _suspects(fit)


def _suspects(fit: NDArray[np.float64]) -> list[int]:
    """Return the rows whose instruction fits another text so well, or that fit each other's."""
    own, best = fit.diagonal(), fit.max(axis=1)
    stray = (best > STRAY_FACTOR * own) & (best >= 1.0)
    better = fit >= own[:, None]
    exchanged = better & better.T & (fit + fit.T > EXCHANGE_FACTOR * (own[:, None] + own))
    suspects: list[int] = np.flatnonzero(stray | exchanged.any(axis=1)).tolist()
    return suspects


def ground_among(instruction: str, own: str, others: Iterable[str]) -> tuple[float, float]:
    """Return the own chunk's score over the best of own chunk and others, 0.0 to 1.0, and that score.

    Both are 0.0 where the instruction shares no term with any of them.
    """
    bags = [_bag(text) for text in dict.fromkeys([own, *others])]
    scores = _fit(set(stems(instruction)), bags).tolist()
    return round(scores[0] / max(scores), 4) if any(scores) else 0.0, round(scores[0], 4)


def _fit(query: Iterable[str], bags: Sequence[Counter[str]]) -> NDArray[np.float64]:
    scores = np.zeros(len(bags))
    for term in sorted(query):
        counts = np.array([bag.get(term, 0) for bag in bags])
        if holders := int(np.count_nonzero(counts)):
            weight = _telling_length(term) * _idf(len(bags), holders)
            scores += weight * counts / (counts + TERM_SATURATION)
    return scores


@lru_cache(maxsize=1024)
def _bag(text: str) -> Counter[str]:
    return Counter(stems(text))


# Words; a candidate outside of this is a fragment or an essay, not a request.
CANDIDATE_WORDS = (4, 80)


def choose_candidate(
    candidates: Sequence[str],
    own: str,
    others: Sequence[str],
    *,
    prompt_words: str = "",
    encode: embeddings.Encode | None = None,
) -> int:
    """Return the position of the candidate that is a request, not a quotation, and fits its chunk best.

    Judged by the chunk ``own`` and these others only, so that the choice can be stored with the answer: by
    words, or with ``encode`` by the cosine to the own chunk, less halfway from the others' mean to their
    largest. What repeats ``prompt_words``, as small models do with examples, is no request.
    """
    others = [other for other in dict.fromkeys(others) if other != own]
    fits = [ground_among(candidate, own, others) for candidate in candidates]
    if encode:
        asked = encode(candidates)
        vectors = embeddings.sharpened(encode([own, *others]), [own, *others], encode)
        near = asked @ vectors.T
        beside = (near[:, 1:].mean(axis=1) + near[:, 1:].max(axis=1)) / 2 if others else 0.0
        fits = [(fit, 0.0) for fit in (near[:, 0] - beside).tolist()]
    ranks = [
        (_is_request(candidate, own, prompt_words), *fit)
        for candidate, fit in zip(candidates, fits, strict=True)
    ]
    return ranks.index(max(ranks))


def _is_request(candidate: str, own: str, prompt_words: str) -> bool:
    least, most = CANDIDATE_WORDS
    copied = max(*copied_fractions(candidate, own), copied_fractions(candidate, prompt_words)[0])
    loops = max(map(repeated_bigrams, candidate.splitlines()), default=0.0) > MAX_REPEATED_BIGRAMS
    # Small models stop before a quotation mark, or where a list would begin.
    whole = least <= len(words(candidate)) <= most and not candidate.endswith((" ", ":", ","))
    is_prose = bool(words(prose_of(candidate)))
    return whole and is_prose and copied < 0.5 and not loops and not leans_on_text(candidate)
