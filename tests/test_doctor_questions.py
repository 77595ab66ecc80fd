"""The questions of a probe."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.doctor_questions import probe_picture, questions_for, words_for
from blackbox_ti.endpoint import Vocabulary
from blackbox_ti.wire import Limits, LossRequest
from tests.fake_host import FakeHost

limits = st.builds(
    Limits,
    max_candidates=st.integers(1, 100),
    max_samples=st.integers(1, 300),
    max_forwards=st.integers(1, 5000),
    max_images=st.integers(1, 100),
    max_steps=st.integers(1, 100),
)


@given(limits, st.integers(1, 300), st.booleans())
def test_no_question_is_over_the_hosts_limits(told: Limits, batch: int, pictures: bool) -> None:
    """Whatever a card says, each question fits into one request, and its cost is the request's own."""
    objectives = ["images"] if pictures else ["loss", "images"]
    card = FakeHost().card.model_copy(update={"limits": told, "objectives": objectives})
    rng = np.random.default_rng(0)
    questions = questions_for(card, words_for(card, {}, 4, rng), "c", rng, batch)
    for name, question in questions.items():
        request = question.request
        candidates = request.embeddings["text"].shape[0]
        assert candidates <= told.max_candidates
        assert question.cost.forwards <= told.max_forwards, name
        if isinstance(request, LossRequest):
            assert len(request.samples) <= told.max_samples
            assert question.cost.forwards == candidates * len(request.samples)
        else:
            assert len(request.items) <= told.max_images
            assert request.num_inference_steps <= told.max_steps
    assert questions["batch"].cost.forwards <= max(batch, 2)


def test_the_picture_shown_is_the_doctors_own() -> None:
    """A PNG of the model's size, the same every time."""
    assert probe_picture(16) == probe_picture(16)
    assert probe_picture(16).startswith(b"\x89PNG")


def test_words_are_the_hosts_own_where_it_tells_them() -> None:
    """Distinct rows of its table; without one, directions as long as its words are."""
    host = FakeHost()
    tokens = tuple(f"{word}</w>" for word in host.words)
    told = words_for(host.card, {"text": Vocabulary(tokens, host.table)}, 4, np.random.default_rng(0))["text"][:, 0]
    rows = {tuple(row) for row in host.table.tolist()}
    assert len({tuple(row) for row in told.tolist()} & rows) == 4
    made_up = words_for(host.card, {}, 4, np.random.default_rng(0))["text"][:, 0]
    assert np.allclose(np.linalg.norm(made_up, axis=1), host.card.encoders[0].norm_mean, rtol=1e-5)


def test_again_and_repeat_are_the_question_alone() -> None:
    """Only their keys will differ."""
    card = FakeHost().card
    rng = np.random.default_rng(0)
    questions = questions_for(card, words_for(card, {}, 4, rng), "c", rng)
    assert questions["alone"] == questions["again"] == questions["repeat"]
    few, alone = questions["words"].request, questions["alone"].request
    assert isinstance(few, LossRequest)
    assert isinstance(alone, LossRequest)
    assert few.samples == alone.samples
    assert questions["half"].request.embeddings["text"].dtype == "float16"
