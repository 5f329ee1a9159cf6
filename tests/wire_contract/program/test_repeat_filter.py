"""What is told of a long trouble."""

from wire_contract.program.repeat_filter import AGAIN_SECONDS, RepeatFilter


def test_days_of_one_cause_are_one_line_and_a_changed_cause_is_told_again() -> None:
    now = 0.0
    told = RepeatFilter(lambda: now)
    lines = []
    for second in range(4 * 86_400 // 60):
        now = second * 60.0
        if told.passes("refused" if second >= 2_000 else "away"):
            lines.append((second, "refused" if second >= 2_000 else "away"))
    assert lines == [(0, "away"), (2_000, "refused")]
    now += 60
    assert told.passes("away"), "again, as it was told long ago"


def test_two_causes_that_take_turns_are_a_line_each_a_minute() -> None:
    now = 0.0
    told = RepeatFilter(lambda: now)
    count = 0
    for step in range(600):
        now = float(step)
        count += told.passes("one" if step % 2 else "other")
    assert count <= 2 * (600 / AGAIN_SECONDS)


def test_what_comes_back_after_it_was_mended_is_news() -> None:
    told = RepeatFilter(lambda: 0.0)
    assert told.passes("away")
    assert told.is_unresolved
    told.resolve()
    assert not told.is_unresolved
    assert told.passes("away")
