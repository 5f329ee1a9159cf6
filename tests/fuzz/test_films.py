"""A small part of `make fuzz`: damaged mammograms of each transfer syntax."""

from tests.device_client.data.extras import extra

extra("pydicom")

from tests.fuzz.films import run  # noqa: E402 — after the extra that it needs


def test_damaged_films_give_a_film_or_a_refusal() -> None:
    outcomes = run(400, seed=14)
    assert sum(outcomes.codes.values()) == 400
    assert outcomes.codes["film"] > 20, "some damages change nothing that matters"
    assert len(outcomes.codes) > 5, "and others meet each kind of check"
