"""Tests of what may queue for the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox_ti.wire import Encoder, ImagesRequest, LossRequest, ModelCard, ProblemCode, encode_tensor
from server_stub.problems import ProblemError
from server_stub.validation import check_images, check_loss
from tests.server_stub.fake_engine import DIM, FakeEngine
from tests.server_stub.served import embeddings, images_body, loss_body

ENGINE = FakeEngine()
CARD = ModelCard.model_validate(
    {
        "protocol_version": "1",
        "model": "fake",
        "family": "fake",
        "fingerprint": "ab" * 32,
        "encoders": [encoder.model_dump() for encoder in ENGINE.info.encoders],
        "resolution": 16,
        "prediction_type": "epsilon",
        "objectives": ["loss", "images"],
        "limits": {"max_norm": 10.0, "max_prompt_tokens": 20},
    }
)
BAD = st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30, 3.0e38])


def plan(body: dict[str, Any], card: ModelCard = CARD) -> Any:
    """Check a loss request on a concept of two pictures."""
    return check_loss(LossRequest.model_validate(body), card, ENGINE, latents=None, concept_images=2)


@given(bad=st.dictionaries(st.integers(0, 4), BAD), where=st.integers(0, DIM - 1))
def test_exactly_the_bad_candidates_are_rejected(bad: dict[int, float], where: int) -> None:
    """Each bad candidate is rejected alone; the others reach the engine untouched and in order."""
    values = np.linspace(0.1, 1, 5 * 2 * DIM, dtype=np.float32).reshape(5, 2, DIM)
    for candidate, value in bad.items():
        values[candidate, 1, where] = value
    found = plan(loss_body("c", embeddings=embeddings(values), prompts=["<sks>"]))
    assert [rejection.candidate for rejection in found.rejected] == sorted(bad)
    assert list(found.accepted) == [index for index in range(5) if index not in bad]
    np.testing.assert_array_equal(found.job.embeddings["text"], values[found.accepted])
    assert (found.forwards, found.queries) == ((5 - len(bad)) * 2, 5 - len(bad))


@pytest.mark.parametrize(("norm", "accepted"), [(9.999, True), (10.001, False)])
def test_the_bound_is_on_each_vectors_own_norm(norm: float, accepted: bool) -> None:
    """A vector may be as long as the bound, however many vectors a candidate has."""
    values = np.zeros((1, 16, DIM))
    values[0, :, 3] = norm
    found = plan(loss_body("c", embeddings=embeddings(values), prompts=["<sks>"]))
    assert bool(found.accepted) is accepted


def test_half_precision_is_taken_as_it_is() -> None:
    """float16 embeddings arrive as the float32 numbers they stand for."""
    values = np.asarray([[[0.1] * DIM]], np.float16)
    tensor = encode_tensor(values, "float16").model_dump()
    found = plan(loss_body("c", embeddings={"text": tensor}))
    np.testing.assert_array_equal(found.job.embeddings["text"], values.astype(np.float32))


def test_all_encoders_have_the_same_candidates_and_vectors() -> None:
    """With two encoders, a difference in B or T is refused, and both widths are checked."""
    second = Encoder(name="second", dim=3, norm_mean=1, norm_std=0.1)
    card = CARD.model_copy(update={"encoders": [*CARD.encoders, second]})
    first = encode_tensor(np.ones((2, 1, DIM))).model_dump()
    good = {"text": first, "second": encode_tensor(np.ones((2, 1, 3))).model_dump()}
    assert set(plan(loss_body("c", embeddings=good), card).job.embeddings) == {"text", "second"}
    for shape in ((1, 1, 3), (2, 2, 3), (2, 1, 4)):
        bad = {"text": first, "second": encode_tensor(np.ones(shape)).model_dump()}
        with pytest.raises(ProblemError) as caught:
            plan(loss_body("c", embeddings=bad), card)
        assert caught.value.code is ProblemCode.INVALID_TENSOR


def test_the_longest_prompt_is_measured_with_all_its_vectors() -> None:
    """A prompt that fits with one vector and not with sixteen is refused with sixteen."""
    prompts = ["<sks> " + "a " * 10]
    assert plan(loss_body("c", prompts=prompts))
    with pytest.raises(ProblemError) as caught:
        plan(loss_body("c", prompts=prompts, embeddings=embeddings(np.ones((1, 16, DIM)))))
    assert (caught.value.code, "28" in caught.value.detail) == (ProblemCode.LIMIT_EXCEEDED, True)


@given(bad=st.sets(st.integers(0, 3)), picked=st.lists(st.integers(0, 3), min_size=1, max_size=10))
def test_pictures_of_good_candidates_are_made_in_their_places(bad: set[int], picked: list[int]) -> None:
    """Items of rejected candidates drop out; the others are renumbered to the candidates that are left."""
    values = np.repeat(np.arange(1, 5, dtype=np.float32)[:, None, None], DIM, axis=2) / 10
    values[sorted(bad), 0, 0] = np.nan
    items = [{"candidate": candidate, "prompt": 0, "seed": 1} for candidate in picked]
    request = ImagesRequest.model_validate(images_body(embeddings=embeddings(values), items=items))
    found = check_images(request, CARD, ENGINE, max_side=32)
    assert [picked[index] for index in found.wanted] == [c for c in picked if c not in bad]
    made = [float(found.job.embeddings["text"][item.candidate, 0, 1]) for item in found.job.items]
    np.testing.assert_allclose(made, [(c + 1) / 10 for c in picked if c not in bad], rtol=1e-6)
    assert (found.total, found.queries) == (len(picked), len(found.wanted))
