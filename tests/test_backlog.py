"""Batches, cut by position and read lazily."""

from itertools import count

from asking import document, endpoint_at, open_store, question, recipe_for

from llmtwin_data.answers import Answer
from llmtwin_data.engine import Backlog

RECIPE = recipe_for(endpoint_at("http://h/v1"))
OTHER = recipe_for(endpoint_at("http://h/v1"), k=2)


def numbers(batches):
    return [[int(slot.question.content_id) for slot in batch.slots] for batch in batches]


def backlog_of(questions, folder, *, answered=()):
    with open_store(folder) as store:
        store.save(answers=[Answer(question(n, RECIPE).key, "ok", ("x",)) for n in answered])
    return Backlog(questions, open_store(folder), batch_size=4)


def test_only_what_is_needed_is_read(tmp_path):
    endless = (question(number, RECIPE) for number in count())

    backlog = backlog_of(endless, tmp_path)

    assert numbers(backlog.read(1)) == [list(range(start, start + 4)) for start in range(0, 32, 4)]
    assert backlog.seen == 32


def test_answered_ones_leave_gaps_and_move_nobody(tmp_path):
    backlog = backlog_of([question(n, RECIPE) for n in range(8)], tmp_path, answered=[1, 5, 6])

    assert numbers(backlog.read()) == [[0, 2, 3], [4, 7]]
    assert backlog.answered_before == 3


def test_failed_answers_are_asked_again_when_wanted(tmp_path):
    asked = [question(n, RECIPE) for n in range(3)]
    with open_store(tmp_path) as store:
        store.save(answers=[Answer(asked[0].key, "ok", ("x",)), Answer(asked[1].key, "failed", ())])
        counts = [
            numbers(Backlog(asked, store, batch_size=4, retry_failed=wanted).read())
            for wanted in (False, True)
        ]

    assert counts == [[[2]], [[1, 2]]]


def test_equal_questions_are_asked_once(tmp_path):
    backlog = backlog_of([question(n % 3, RECIPE) for n in range(8)], tmp_path)

    assert numbers(backlog.read()) == [[0, 1, 2]]
    assert backlog.seen - backlog.different == 5


def test_recipes_do_not_share_a_request(tmp_path):
    questions = [question(n, OTHER if n % 2 else RECIPE) for n in range(4)]

    assert numbers(backlog_of(questions, tmp_path).read()) == [[0, 2], [1, 3]]


def test_those_asked_again_go_first_and_later_ones_wait(tmp_path):
    backlog = backlog_of([question(n, RECIPE) for n in range(12)], tmp_path)
    first, second, third = backlog.read()
    backlog.fresh.append(first)
    backlog.again.append(second)
    backlog.put_later(third, 5.0)

    assert [backlog.pop(1.0), backlog.pop(1.0), backlog.pop(1.0), backlog.next_moment()] == [
        second,
        first,
        None,
        5.0,
    ]
    assert backlog.pop(5.0) is third
    assert backlog.empty()


def test_batches_known_to_be_too_long_are_halved(tmp_path):
    backlog = backlog_of([question(n, RECIPE) for n in range(4)], tmp_path)
    backlog.fresh.extend(backlog.read())
    backlog.longest = backlog.fresh[0].characters()

    assert numbers([backlog.pop(0.0), backlog.pop(0.0)]) == [[0, 1], [2, 3]]


def alike(number, *, post):
    """Give a text whose first lines are those of every other of this post."""
    return question(
        number, RECIPE, text=f"{document(900 + post)} {document(950 + post)} " * 3 + document(number)
    )


def test_texts_that_no_opening_tells_apart_do_not_share_a_batch(tmp_path):
    asked = [alike(n, post=1 if n < 3 else 2) for n in range(6)]

    assert numbers(backlog_of(asked, tmp_path).read()) == [[0, 3], [1, 4], [2, 5]]


def test_texts_that_a_longer_opening_tells_apart_share_a_batch(tmp_path):
    asked = [question(n, RECIPE, text=f"What my first summer of {document(n)}") for n in range(8)]

    assert numbers(backlog_of(asked, tmp_path).read()) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_text_within_the_first_lines_of_another_does_not_share_its_batch(tmp_path):
    asked = [
        question(0, RECIPE, text="Hello world"),
        question(1, RECIPE, text="She said: hello world, and left."),
    ]

    assert numbers(backlog_of(asked, tmp_path).read()) == [[0], [1]]


def test_a_text_without_words_is_asked_alone(tmp_path):
    asked = [question(n, RECIPE, text=text) for n, text in enumerate(["🎉", "One of the posts", "—"])]

    assert numbers(backlog_of(asked, tmp_path).read()) == [[0], [1], [2]]


def test_each_pair_is_judged_in_a_request_of_its_own(tmp_path):
    judge = recipe_for(endpoint_at("http://h/v1"), prompt="judge")
    asked = [
        question(n, judge, text=f"Genre: posts\nInstruction: Write {n}\nContent:\n{document(n // 2)}")
        for n in range(4)
    ]

    assert numbers(backlog_of(asked, tmp_path).read()) == [[0], [1], [2], [3]]


def test_batches_do_not_depend_on_what_is_answered_or_read_at_once(tmp_path):
    asked = [alike(n, post=n % 3 > 0) for n in range(128)]
    (tmp_path / "other").mkdir()
    small, large = backlog_of(asked, tmp_path), backlog_of(asked, tmp_path / "other")
    expected = [batch for _ in range(4) for batch in numbers(small.read(1))]

    assert numbers(large.read()) == expected
    with open_store(tmp_path) as store:
        store.save(answers=[Answer(asked[0].key, "ok", ("x",))])
        without = numbers(Backlog(asked, store, batch_size=4).read())
    assert without == [[number for number in batch if number] for batch in expected]


def test_batches_are_taken_apart_for_an_endpoint_that_gets_one_text_a_request(tmp_path):
    backlog = backlog_of([question(n, RECIPE) for n in range(4)], tmp_path)
    backlog.fresh.extend(backlog.read())

    assert numbers([backlog.pop(0.0, alone=True) for _ in range(4)]) == [[0], [1], [2], [3]]
