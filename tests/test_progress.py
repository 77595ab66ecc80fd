"""What those who watch a run are told of it."""

from __future__ import annotations

from PIL import Image

from blackbox_ti.inversion import InversionResult, invert
from blackbox_ti.progress import Progress
from blackbox_ti.scorers import CallableScorer
from blackbox_ti.settings import InversionSettings
from tests.fake_clip import INDIFFERENT_CLIP
from tests.fake_host import FakeHost, fake_endpoint
from tests.painter import likeness, painter, references

PICTURES = [Image.new("RGB", (8, 8), (200, 30, 30)), Image.new("RGB", (8, 8), (30, 200, 30))]


def _told(host: FakeHost, **settings: object) -> tuple[InversionResult, list[Progress]]:
    told: list[Progress] = []
    endpoint = fake_endpoint(host)
    try:
        chosen = InversionSettings(dimension=6, seed=5, **settings)  # type: ignore[arg-type]
        result = invert(endpoint, PICTURES, chosen, clip=INDIFFERENT_CLIP, on_progress=told.append)
    finally:
        endpoint.close()
    return result, told


def test_a_run_is_told_from_the_first_round_of_its_race_to_its_last_generation() -> None:
    """Rounds are counted to the end, then generations; forwards and seconds never fall, and no round has a loss."""
    result, told = _told(FakeHost(), max_forwards=2400)
    rounds = sum(len(race) for race in result.plan.races)
    of = [("race", i + 1, rounds) for i in range(rounds)]
    of += [("search", i + 1, result.plan.generations) for i in range(result.plan.generations)]
    assert rounds
    assert [(p.phase, p.generation, p.generations) for p in told] == of
    assert [p.forwards for p in told] == sorted(p.forwards for p in told)
    assert [p.seconds for p in told] == sorted(p.seconds for p in told)
    assert all((p.loss is None) == (p.phase == "race") for p in told)
    assert {p.max_forwards for p in told} == {2400}
    assert told[0].forwards == sum(starts * samples for starts, samples in result.plan.races[0][:1])


def test_where_pictures_are_judged_scores_are_told_in_place_of_losses() -> None:
    """The larger the better, and no loss beside them."""
    told: list[Progress] = []
    settings = InversionSettings(
        objective="images", search_steps=2, search_guidance_scale=1.0, max_forwards=600, dimension=3,
        initializer_token="dog",
    )  # fmt: skip
    scorer = CallableScorer(likeness, "likeness")
    result = invert(painter(), references(), settings, scorer=scorer, on_progress=told.append)
    assert len(told) == result.plan.generations
    assert all(p.loss is None and p.heldout_loss is None for p in told)
    assert all(p.score is not None for p in told)
