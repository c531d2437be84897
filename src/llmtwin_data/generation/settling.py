"""What becomes of each text of a batch once a completion came back: answered, asked again, or failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmtwin_data.answers import Answer
from llmtwin_data.endpoints.completions import Completion, is_refusal
from llmtwin_data.generation.openings import Head
from llmtwin_data.generation.pairing import Reading, Values, read_choice
from llmtwin_data.generation.slots import Batch, Slot
from llmtwin_data.measures import choose_candidate
from llmtwin_data.measures.swaps import find_swapped

# Asked alone and with the same words, these would only come again.
FINAL_WHEN_ALONE = {"refused", "filtered"}
# Not known to be about the text that the number names.
UNPROVEN = {"numbers", "opening"}


@dataclass(slots=True)
class Settlement:
    """Final answers with their slots, batches to ask again, and one word for the request."""

    answers: list[Answer]
    settled: list[Slot]
    again: list[Batch]
    outcome: str
    ignored: int  # answers without a number, or under one that was never asked
    unproven: int  # whole answers whose openings were not those of their texts
    proven: int  # answers whose openings were
    useful: bool  # a word about any of the texts: an instruction, a verdict, or that it is refused


def settle(
    batch: Batch,
    completion: Completion,
    *,
    boundary: str,
    attempts: int,
    request_id: str,
    openings: bool = True,
    roomier: bool = False,
    reference: Sequence[str] = (),
) -> Settlement:
    """Match a completion with its batch.

    Parameters
    ----------
    attempts
        Useless answers after which a text, asked alone, is failed.
    openings
        Whether the request asked for openings where it held several texts.
    roomier
        Hidden tokens took the answer's room, and there is more now: ask the rest together, as if for the
        first time.
    reference
        Other chunks, which candidates are compared with besides the batch-mates; a batch of one has none.
    """
    heads = batch.heads() if openings else []
    readings = [_read(batch, choice.text, choice.problem, boundary, heads) for choice in completion.choices]
    gained = _collect(batch, readings)
    for index, slot in enumerate(batch.slots):
        slot.tries += index not in gained and not roomier
    useful = any(_says_something(slot, index in gained) for index, slot in enumerate(batch.slots))
    wanted = [slot for slot in batch.slots if slot.key]
    ready = [slot for slot in wanted if slot.missing() <= 0 or (slot.found and slot.tries >= attempts)]
    chosen = _chosen(ready, batch, reference)
    for slot in _swapped(ready, chosen, batch):
        slot.found, slot.reason = [], "swapped"
        slot.tries += 1
    good = [slot for slot in ready if slot.found]
    answers = [_answer(slot, chosen[slot.key], completion.model, request_id) for slot in good]
    rest = [slot for slot in wanted if slot not in good]
    failed, again = ([], _roomier(batch, rest)) if roomier else _regroup(batch, rest, attempts)
    answers += [failure(slot, slot.reason, request_id=request_id) for slot in failed]
    return Settlement(
        answers,
        good + failed,
        again,
        _outcome(good, rest),
        ignored=sum(reading.ignored for reading in readings),
        unproven=sum(reading.unproven for reading in readings),
        useful=useful,
        proven=sum(len(reading.values) for reading in readings) if heads else 0,
    )


def failure(slot: Slot, reason: str, *, value: str = "", request_id: str = "") -> Answer:
    """Give the final word on a text that gets no answer."""
    return _answer(slot, (), "", request_id, state="failed", reason=reason, value=value)


def _collect(batch: Batch, readings: Iterable[Reading]) -> set[int]:
    """Add every exact answer to its slot; give the indexes of those that gained one."""
    gained: set[int] = set()
    for reading in readings:
        for number, values in reading.values.items():
            batch.slots[number - 1].found.append(values)
            gained.add(number - 1)
        for number, reason in reading.problems.items():
            batch.slots[number - 1].reason = reason
    return gained


def _says_something(slot: Slot, gained: bool) -> bool:
    if not gained:
        return slot.reason in FINAL_WHEN_ALONE
    return any(map(str.isalnum, "".join(slot.found[-1])))


def _read(batch: Batch, text: str, problem: str, boundary: str, heads: Sequence[Head]) -> Reading:
    count = len(batch.slots)
    if problem and not text:
        return Reading(problems=dict.fromkeys(range(1, count + 1), problem))
    recipe = batch.slots[0].question.recipe
    cut = problem == "cut"
    reading = read_choice(
        text, kind=recipe.kind, k=recipe.k, count=count, boundary=boundary, heads=heads, cut=cut
    )
    if not reading.values and not cut and "malformed" in reading.problems.values() and is_refusal(text):
        reading.problems = dict.fromkeys(reading.problems, "refused")
    return reading


def _chosen(ready: Iterable[Slot], batch: Batch, reference: Sequence[str]) -> dict[str, Values]:
    others = [*batch.texts(), *reference]
    return {slot.key: _choose(slot, others) for slot in ready}


def _choose(slot: Slot, others: Sequence[str]) -> Values:
    if len(slot.found) == 1:
        return slot.found[0]
    told, prompt_words = ["\n".join(values) for values in slot.found], slot.question.recipe.template.words
    return slot.found[choose_candidate(told, slot.question.text, others, prompt_words=prompt_words)]


def _swapped(ready: Sequence[Slot], chosen: dict[str, Values], batch: Batch) -> list[Slot]:
    """Give the slots whose instructions look as if they belonged to another text of the batch."""
    if len(batch.slots) < 2 or not ready or ready[0].question.recipe.kind == "verdicts":
        return []
    # Texts without an answer stand in the comparison too: theirs may be the one given to another.
    told = [" ".join(chosen.get(slot.key, ())) for slot in batch.slots]
    places = find_swapped(told, batch.texts())
    return [batch.slots[place] for place in places if batch.slots[place].key in chosen]


def _regroup(batch: Batch, rest: list[Slot], attempts: int) -> tuple[list[Slot], list[Batch]]:
    """Ask the rest again: once together, then in halves or alone, until it is final."""
    if not rest:
        return [], []
    if len(batch.slots) == 1:
        slot = batch.slots[0]
        final = slot.reason in FINAL_WHEN_ALONE or slot.tries >= attempts
        return ([slot], []) if final else ([], [_stretched(batch.part([slot]))])
    exchanged = [slot for slot in rest if slot.reason == "swapped"]
    others = [slot for slot in rest if slot.reason != "swapped"]
    return [], [*map(_stretched, _smaller(batch, others)), *(batch.part([slot]) for slot in exchanged)]


def _roomier(batch: Batch, rest: list[Slot]) -> list[Batch]:
    again = batch.part(rest)
    again.again = batch.again
    return [again] if rest else []


def _smaller(batch: Batch, slots: list[Slot]) -> list[Batch]:
    if not slots:
        return []
    whole = len(slots) == len(batch.slots)
    only_more_wanted = all(slot.found for slot in slots)
    empty_once = whole and batch.attempt == 0 and all(slot.reason == "empty_answer" for slot in slots)
    unproven = all(slot.reason in UNPROVEN for slot in slots)
    if only_more_wanted or empty_once or ((unproven or not whole) and batch.again == 0):
        return [batch.part(slots)]
    return batch.part(slots).halves() if whole and not unproven else [batch.part([slot]) for slot in slots]


def _stretched(batch: Batch) -> Batch:
    batch.stretch += any(slot.reason == "cut" for slot in batch.slots)
    return batch


def _answer(
    slot: Slot,
    values: Values,
    model: str,
    request_id: str,
    *,
    state: str = "ok",
    reason: str = "",
    value: str = "",
) -> Answer:
    return Answer(
        key=slot.key,
        state="ok" if state == "ok" else "failed",
        values=values,
        reason=reason,
        value=value,
        requests=slot.requests,
        prompt_tokens=slot.prompt_tokens,
        completion_tokens=slot.completion_tokens,
        cost_usd=None if slot.cost_usd is None else round(slot.cost_usd, 12),
        model=model,
        request_id=request_id,
    )


def _outcome(good: Sequence[Slot], rest: Sequence[Slot]) -> str:
    if not rest:
        return "ok"
    return "partial" if good else Counter(slot.reason or "partial" for slot in rest).most_common(1)[0][0]
