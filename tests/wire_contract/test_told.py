"""What is told of a long trouble."""

from wire_contract.program.repeated_complaints import AGAIN_SECONDS, Told


def test_days_of_one_cause_are_one_line_and_a_changed_cause_is_told_again() -> None:
    now = 0.0
    told = Told(lambda: now)
    lines = []
    for second in range(4 * 86_400 // 60):
        now = second * 60.0
        if told.is_news("refused" if second >= 2_000 else "away"):
            lines.append((second, "refused" if second >= 2_000 else "away"))
    assert lines == [(0, "away"), (2_000, "refused")]
    now += 60
    assert told.is_news("away"), "again, as it was told long ago"


def test_two_causes_that_take_turns_are_a_line_each_a_minute() -> None:
    now = 0.0
    told = Told(lambda: now)
    count = 0
    for step in range(600):
        now = float(step)
        count += told.is_news("one" if step % 2 else "other")
    assert count <= 2 * (600 / AGAIN_SECONDS)


def test_what_comes_back_after_it_was_mended_is_news() -> None:
    told = Told(lambda: 0.0)
    assert told.is_news("away")
    assert told.anything
    told.mended()
    assert not told.anything
    assert told.is_news("away")
