"""Prompts, models, languages and batch sizes tried on one sample, and whether one of them is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from llmtwin_data import pipeline
from llmtwin_data.answers import AnswerStore
from llmtwin_data.contents import KEY, rows_of
from llmtwin_data.endpoints import Endpoint, with_model
from llmtwin_data.measures import ground_among, with_texts_told
from llmtwin_data.params import Params
from llmtwin_data.prices import cost_usd
from llmtwin_data.tables import Markdown, bullets, code, copied_of, format_value, in_usd, sample_of
from llmtwin_data.texts import counted, estimate_tokens, words

# What may vary between trials, called as in the params.
FACTORS = ["prompt", "model", "instruction_language", "batch_size"]
USABLE, TOKENS = "usable, %", "tokens per accepted pair"
# A judge's verdicts are no part of it.
COST = "instructions of 1,000 accepted pairs, USD"
UNKNOWN = "an unknown sum"
JUDGED = "judge score, 1–5"
MIXED, SAME = "another content of the request fits better, %", "words shared within a request, %"
# Of a job whose sample nobody chose, what trying may take; USD that are spent whatever the job; contents.
TRIED_SHARE, SMALL_CHANGE, FEWEST_TRIED = 0.25, 0.10, 12
# Rough tokens of an instruction, and of the prompt around the chunks of a request.
INSTRUCTION_TOKENS, FRAME_TOKENS = 60, 400
# Resamples; the ends of a 95 % interval move by less than half a point between seeds at this number.
DRAWS = 4000
ENDS = ("", " low", " high")
# Contents. Five that all fall on one side do so by chance in 1 of 16 cases, six in 1 of 32; a bootstrap over
# so few would call either certain.
FEWEST_DIFFERENT = 6


class Scores(NamedTuple):
    """Each measure, a column, as what every content adds to it, and what the sum is divided by."""

    parts: pd.DataFrame
    wholes: pd.DataFrame


def variants_of(settings: Params) -> list[Params]:
    """Return the settings of every trial: each prompt, each model and each language, one at a time.

    Not every combination: with three of each that is seven trials instead of 27. The price in the params is
    that of ``model``; any other model has the listed one, or none.
    """
    free: dict[str, Any] = {"usd_per_million_input": 0.0, "usd_per_million_output": 0.0}
    variants = [replace(settings, prompt=prompt) for prompt in settings.prompts]
    variants += [
        settings if model == settings.model else replace(settings, model=model, **free)
        for model in settings.models
    ]
    variants += [replace(settings, instruction_language=language) for language in settings.languages]
    return [one for place, one in enumerate(variants) if one not in variants[:place]] or [settings]


def sample_for(chunks: pd.DataFrame, settings: Params, endpoint: Endpoint) -> pd.DataFrame:
    """Return the chunks to compare trials on, one a content: ``tune_sample``, where that is set by hand.

    Else at most a quarter of the contents, and so few that all trials cost a quarter of the dataset's
    instructions, or `SMALL_CHANGE`; but never fewer than `FEWEST_TRIED`. It is the same whatever is stored.
    """
    usable, most = chunks[chunks.state != "skipped"], settings.tune_sample
    if most == Params().tune_sample and len(usable):
        contents = len(usable.drop_duplicates(["collection", "content_id"]))
        tokens = float(usable.content.head(1000).map(estimate_tokens).mean())
        trials = [*variants_of(settings), *sizes_of(settings)]
        trying = sum(_usd_a_content(one, endpoint, tokens) for one in trials if one != settings)
        paid = max(SMALL_CHANGE, TRIED_SHARE * len(usable) * _usd_a_content(settings, endpoint, tokens))
        affordable = int(paid / trying) if trying else most
        most = min(most, max(FEWEST_TRIED, min(int(TRIED_SHARE * contents), affordable)))
    return sample_of(chunks, most=most, seed=settings.seed)


def _usd_a_content(settings: Params, endpoint: Endpoint, tokens: float) -> float:
    """Return roughly what one chunk of so many tokens costs, 0 where the price is unknown."""
    price = pipeline.price_for(settings, with_model(endpoint, settings.model))
    written = INSTRUCTION_TOKENS * settings.instructions_per_content * settings.candidates
    return cost_usd(price, tokens + FRAME_TOKENS / settings.batch_size, written) or 0.0


def sizes_of(settings: Params, *, share: float = 0.0) -> list[Params]:
    """Return the settings of every batch size that is tried, their own among them, the smallest first.

    ``share`` is the sample's of all chunks: by itself, one text in a request is only tried where that takes
    no more requests than the job does.
    """
    own, is_default = settings.batch_size, settings.tune_sample == Params().tune_sample
    by_itself = () if is_default and share * own > 1 else (1,)
    sizes = {*(settings.batch_sizes or by_itself), own}
    return [replace(settings, batch_size=size) for size in sorted(sizes)]


def forecast_variants(
    chunks: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore
) -> pd.DataFrame:
    """Return what the instructions for all chunks take with each variant, each alone."""
    variants = [settings, *(one for one in variants_of(settings) if one != settings)]
    steps = [pipeline.instructions_step(chunks, one, endpoint)._replace(what=_named(one)) for one in variants]
    return pd.concat([pipeline.forecast_steps([step], store.settled) for step in steps], ignore_index=True)


def forecast_tuning(
    sample: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore, *, among: pd.DataFrame
) -> pd.DataFrame:
    """Return what notebook 2 will ask about its sample of the chunks in ``among``, at live prices."""
    return pipeline.forecast_steps(_steps(sample, among, settings, endpoint, store), store.settled)


def forecast_run(
    chunks: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore
) -> pd.DataFrame:
    """Return what a whole run will ask, tuning first; what that will have asked is found stored."""
    tuned = _steps(sample_for(chunks, settings, endpoint), chunks, settings, endpoint, store)
    rest = pipeline.steps_of(chunks, settings, endpoint, store)
    return pipeline.forecast_steps([*tuned, *rest], store.settled)


def _steps(
    sample: pd.DataFrame, among: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore
) -> list[pipeline.Step]:
    live = replace(settings, mode="live")
    trials = {f"tuning: {_named(one)}": one for one in variants_of(live)}
    sizes = sizes_of(live, share=_share(sample, among))
    trials |= {f"tuning: {_named(one)} in batches of {one.batch_size}": one for one in sizes if one != live}
    steps = list[pipeline.Step]()
    for what, one in trials.items():
        for step in pipeline.steps_of(sample, one, endpoint, store, trial=_trial_of(one, settings)):
            name = what if step.what == "instructions" else f"{what}, {step.what}"
            steps.append(step._replace(what=name))
    return steps


def _share(sample: pd.DataFrame, among: pd.DataFrame) -> float:
    return float(len(sample) / max(1, (among.state != "skipped").sum()))


def try_variants(
    sample: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore, *, among: pd.DataFrame
) -> pd.DataFrame:
    """Ask about the sample with each variant of the settings, measure and curate what comes back.

    Returns the ledgers of all trials, one after another, with ``trial`` (its name) and the columns `FACTORS`.
    Grounding compares with the chunks in ``among``, which the sample is of, as the dataset will.

    Raises RunIncomplete: a trial lacks answers, by which it would lose without a fault of its own; the same
    call goes on.

    ``max_cost_usd`` is for all trials together. Answers go to the store, where the dataset finds those of the
    variant that it is made with.
    """
    return _try_all(variants_of(settings), sample, settings, endpoint, store, among=among)


def try_batch_sizes(
    sample: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore, *, among: pd.DataFrame
) -> pd.DataFrame:
    """Ask the settings' prompt about the sample in batches of each size, as `try_variants` does.

    An answer's key does not name the batch that it came in; so the recipe of any size but the settings' own
    is named after it, and a second call finds its answers.
    """
    sizes = sizes_of(settings, share=_share(sample, among))
    trials = _try_all(sizes, sample, settings, endpoint, store, among=among)
    names = trials.batch_size.map(lambda size: "one by one" if size == 1 else f"{size} in a request")
    return trials.assign(trial=names.astype("str"))


def leaderboard(trials: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Return the trials ranked by usable pairs; each measure stands beside the ends of its 95 % interval.

    Columns: ``trial``, then for each measure ``name``, ``name low``, ``name high``, not a number where
    unknown, and ``name of``: how many contents there are, and how many of them tell.

    Every draw takes the same contents of every trial, and all instructions of a content together, for they
    are no independent witnesses. A cost per accepted pair is drawn as a whole, cost and pairs together.
    """
    if trials.judge_score.isna().all():
        trials = trials.drop(columns="judge_score")
    return _board({name: _scores(rows) for name, rows in _ranked(trials).items()}, seed=seed)


def batch_effects(trials: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Return batch sizes compared on the same contents, as a board; one size alone gives an empty one.

    Every trial is looked at in the groups of the largest batch. What contents asked one by one show in those
    groups is the chance level: only what a larger batch shows above it comes from the batch.
    """
    if trials.batch_size.nunique() < 2:
        return pd.DataFrame()
    size = int(trials.batch_size.max())
    groups = trials.groupby("batch_size")
    return _board({rows.trial.iloc[0]: _effects(rows, size) for _, rows in groups}, seed=seed)


def readable_board(board: pd.DataFrame) -> pd.DataFrame:
    """Return a board for people: a column for each trial, a row for each measure with its interval."""
    names = [name.removesuffix(" low") for name in board.columns if name.endswith(" low")]
    columns = {row["trial"]: [_readable(row, name) for name in names] for row in board.to_dict("records")}
    return pd.DataFrame({"measure": names} | columns)


def comparisons(trials: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Return the two best for each thing that varies, compared content by content, one thing at a time.

    Columns: ``factor``; ``winner`` and ``other``, names of trials; ``difference`` in the usable share (0.0 to
    1.0), ``low`` and ``high``, the ends of its 95 % interval; ``different``, the contents whose usable share
    differs; ``is_real``: the interval is above zero, and enough contents differ to believe it.
    """
    ranked, rows = _ranked(trials), []
    firsts = trials.drop_duplicates("trial").set_index("trial", drop=False).loc[list(ranked)]
    for factor in FACTORS:
        alike = firsts.groupby([other for other in FACTORS if other != factor], sort=False)
        for winner, other in (group.trial[:2] for _, group in alike if len(group) > 1):
            usable = [_scores(ranked[name]).parts[[USABLE]] / 100 for name in (winner, other)]
            difference = usable[0] - usable[1]
            interval = intervals(difference, difference * 0 + 1, seed=seed)
            mean, low, high = interval[USABLE], interval[f"{USABLE} low"], interval[f"{USABLE} high"]
            different = int(np.count_nonzero(difference))
            is_real = bool(low > 0 and different >= FEWEST_DIFFERENT)
            rows.append((factor, winner, other, mean, low, high, different, is_real))
    columns = ["factor", "winner", "other", "difference", "low", "high", "different", "is_real"]
    return pd.DataFrame(rows, columns=columns)


def conclude(trials: pd.DataFrame, batch_trials: pd.DataFrame | None = None, *, seed: int) -> Markdown:
    """Return what wins, whether the differences are real, and the lines for the params file."""
    batch_trials = trials[:0] if batch_trials is None else batch_trials
    ranked, sized = _ranked(trials), _ranked(batch_trials)
    compared, sizes = comparisons(trials, seed=seed), comparisons(batch_trials, seed=seed)
    best = next(iter(ranked.values())).iloc[0]
    lines = [_verdict(row, of) for rows, of in ((compared, ranked), (sizes, sized)) for row in rows_of(rows)]
    if compared.empty:
        lines.append(f"Only {code(best.prompt)} was tried, so no prompts were compared.")
    judged = "; the judge's verdicts come on top" if ranked[best.trial].judge_score.notna().any() else ""
    cost = _usd(ranked[best.trial])
    lines.append(f"The instructions of 1,000 accepted pairs cost {cost} with the lines below{judged}.")
    chosen = {"prompt": best.prompt} | {factor: best[factor] for factor in compared.factor}
    for row in rows_of(compared):
        won = ranked[row.winner][row.factor].iloc[0]
        if won != best[row.factor]:
            lines.append(
                f"{code(won)} won among its like, but was not tried with the lines below; put them in and "
                "run this notebook again to see whether it still does."
            )
    for winner in sizes.winner[sizes.is_real]:
        chosen["batch_size"] = int(sized[winner].batch_size.iloc[0])
    lines.append("What was answered here is stored: notebook 3 pays for none of it again.")
    params = yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True)
    return Markdown(f"{bullets(lines)}\n\nFor the params file:\n\n```yaml\n{params}```")


def _named(settings: Params) -> str:
    """Return a variant's name by what it may differ in."""
    names = [settings.prompt]
    names += [settings.model] if settings.models else []
    names += [settings.instruction_language] if settings.languages else []
    return " · ".join(names)


def _trial_of(variant: Params, settings: Params) -> str:
    """Return the name that a recipe needs to have answers of its own; empty where it differs anyway."""
    return "" if variant.batch_size == settings.batch_size else f"batch_size {variant.batch_size}"


def _try_all(
    variants: list[Params], sample: pd.DataFrame, settings: Params, endpoint: Endpoint, store: AnswerStore,
    *, among: pd.DataFrame,
) -> pd.DataFrame:  # fmt: skip
    ledgers, among = [], with_texts_told(among, settings)
    sample = among.loc[sample.index]
    for one in variants:
        variant, trial = replace(one, mode="live"), _trial_of(one, settings)
        what = f"tuning: {_named(variant)} in batches of {variant.batch_size}: "
        step = pipeline.instructions_step(sample, variant, endpoint, trial=trial)
        pipeline.ask_step(step._replace(what=f"{what}{step.what}"), store)
        # Reviews are of one variant, which must neither win nor lose by them.
        ledger = pipeline.with_answers(sample, variant, store, trial=trial, reviewed=False)
        # Of the other chunks only the texts count, which a row without an instruction gives.
        rest = among.drop(index=sample.index).assign(k=1)
        everything = pd.concat([ledger, rest], ignore_index=True)
        ledger = pipeline.measure(everything, variant, endpoint, store, of=what).head(len(ledger))
        if variant.judge_model:
            step = pipeline.verdicts_step(ledger, variant, endpoint)
            pipeline.ask_step(step._replace(what=f"{what}{step.what}"), store)
        ledger = pipeline.with_decisions(pipeline.with_verdicts(ledger, variant, store), variant)
        ledgers.append(ledger.assign(**{factor: getattr(variant, factor) for factor in FACTORS}))
    trials = pd.concat(ledgers, ignore_index=True)
    varied = [factor for factor in FACTORS if trials[factor].nunique() > 1] or ["prompt"]
    return trials.assign(trial=trials[varied].astype("str").agg(" · ".join, axis=1).astype("str"))


def _ranked(trials: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of each trial, most usable pairs first; of equal ones the better grounded is first."""
    trials = trials.astype({"grounding": float})
    groups = trials.groupby("trial", sort=False)
    grounding = trials.groupby(["trial", *KEY], sort=False).grounding.mean().groupby("trial").mean()
    usable = (trials.state == "accepted").groupby(trials.trial).sum()
    order = groups[["prompt"]].first().assign(usable=usable, grounding=grounding)
    names = ["usable", "grounding", "prompt"]
    order = order.sort_values(names, ascending=[False, False, True], kind="stable")
    return {name: groups.get_group(name) for name in order.index}


def _scores(rows: pd.DataFrame) -> Scores:
    """Return what is told of a trial, in the order in which it is shown; a judge's score if one was asked."""
    numbers = {
        USABLE: 100 * (rows.state == "accepted"),
        "valid answers, %": 100 * rows.instruction.notna(),
        "grounding": rows.grounding,
        "copied, %": 100 * copied_of(rows),
        "generic, %": 100 * rows.genericness,
        "right language, %": 100 * rows.language_ok.astype(float),
        "length, characters": rows.characters,
        TOKENS: rows.prompt_tokens + rows.completion_tokens,
        COST: 1000 * rows.cost_usd,
    }
    numbers |= {JUDGED: rows.judge_score} if "judge_score" in rows else {}
    table = pd.DataFrame({name: values.astype(float) for name, values in numbers.items()})
    contents = table.groupby([rows[name] for name in KEY], sort=False)
    means, accepted = contents.mean(), contents[USABLE].sum() / 100
    parts, wholes = means.fillna(0), means.notna().astype(float)
    for name in (TOKENS, COST):  # one that is unknown for one content is unknown for all
        parts[name], wholes[name] = contents[name].sum(skipna=False), accepted
    return Scores(parts, wholes)


def _effects(rows: pd.DataFrame, size: int) -> Scores:
    usual, first = _scores(rows), rows[rows.k == 1]
    effects = pd.DataFrame(np.nan, usual.parts.index, [MIXED, SAME])
    terms = [set(words(instruction)) for instruction in first.instruction.fillna("")]
    answered = first.instruction.notna().tolist()
    for place, (instruction, content) in enumerate(zip(first.instruction, first.content, strict=True)):
        start = place - place % size
        group = range(start, min(start + size, len(first)))
        mates = [mate for mate in group if mate != place and answered[mate]]
        if answered[place] and mates:
            fit, _ = ground_among(instruction, content, first.content.iloc[mates].tolist())
            both = [(terms[place] & terms[mate], terms[place] | terms[mate]) for mate in mates]
            shared = [len(common) / max(1, len(either)) for common, either in both]
            effects.iloc[place] = 100 * (fit < 1), 100 * np.mean(shared)
    names = [USABLE, TOKENS]
    wholes = effects.notna().astype(float).join(usual.wholes[names])
    return Scores(effects.fillna(0).join(usual.parts[names]), wholes)


def _board(scores: Mapping[str, Scores], *, seed: int) -> pd.DataFrame:
    rows = []
    for trial, (parts, wholes) in scores.items():
        counts = {f"{name} of": (len(wholes), int(np.count_nonzero(wholes[name]))) for name in parts}
        rows.append({"trial": trial} | intervals(parts, wholes, seed=seed) | counts)
    return pd.DataFrame(rows)


def intervals(parts: pd.DataFrame, wholes: pd.DataFrame, *, seed: int) -> dict[str, float]:
    """Return of each column the sum of parts over that of wholes, and the ends of its interval.

    These are named ``low`` and ``high`` after the column, are of 95 %, and drawn by row; one seed draws the
    same rows of every table, so that two are paired.
    """
    dice, count, both = np.random.default_rng(seed), len(parts), np.hstack([parts, wholes])
    draws = (dice.multinomial(count, [1 / count] * count) for _ in range(DRAWS))
    sums = np.array([both.sum(axis=0), *(times @ both for times in draws)])
    above, below = np.hsplit(sums, 2)
    shares = pd.DataFrame(above / np.where(below > 0, below, np.nan), columns=parts.columns)
    table = pd.concat([shares.iloc[:1], shares.iloc[1:].quantile([0.025, 0.975])])
    return {f"{name}{end}": value for name in table for end, value in zip(ENDS, table[name], strict=True)}


def _usd(rows: pd.DataFrame) -> str:
    """Return what the instructions of 1,000 accepted pairs cost, with its unit."""
    parts, wholes = (table[COST].sum(skipna=False) for table in _scores(rows))
    cost = parts / wholes if wholes else np.nan
    return UNKNOWN if np.isnan(cost) else in_usd(cost)


def _readable(row: Mapping[Any, Any], name: str) -> str:
    value, low, high = (format_value(row[key], column=name) for key in (name, f"{name} low", f"{name} high"))
    contents, known = row[f"{name} of"]
    note = f", {known} of {contents} contents" if name == "grounding" and known < contents else ""
    return value + note if value == low == high else f"{value} ({low} to {high}){note}"


def _verdict(row: Any, trials: Mapping[str, pd.DataFrame]) -> str:
    both = [trials[row.winner], trials[row.other]]
    winner, other = (code(rows[row.factor].iloc[0]) for rows in both)
    contents = counted(len(both[0][KEY].drop_duplicates()), "content")
    subject = row.factor.replace("_", " ").capitalize()
    result = (
        f"{subject}: {winner} beats {other} by {100 * row.difference:.1f} points of usable pairs "
        f"(95 % interval {100 * row.low:+.1f} to {100 * row.high:+.1f})"
    )
    if row.is_real:
        return f"**{result}. The difference is real** on these {contents}."
    costs = f"{' against '.join(map(_usd, both))} for the instructions of 1,000 accepted pairs"
    by = f"by reading and by cost ({costs})" if costs.count(UNKNOWN) < 2 else "by reading"
    choose = f"Choose {by}, or raise `tune_sample`."
    if row.difference == 0:
        return f"**{subject}: {winner} and {other} give equally many usable pairs** of {contents}. {choose}"
    few = f"they differ on {counted(row.different, 'content')} alone"
    why = "the interval holds zero" if row.low <= 0 else few
    return f"**{result}. The difference may be chance**: {why} on these {contents}. {choose}"
