"""A host without a model: it speaks the protocol over `httpx.MockTransport`, its losses a seeded quadratic.

    loss(e, sample) = 0.25 + (0.5 + t) * mean((e - target)**2) + 0.05 * noise(image, seed)

`target` and the noise are drawn from the host's seed and the sample, so the same question has the same answer.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ValidationError

from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.replies import canonical_bytes, receipt_bytes
from blackbox_ti.transport import Attempt
from blackbox_ti.wire import (
    IDEMPOTENCY_KEY_HEADER,
    PROBLEM_MEDIA_TYPE,
    RECEIPT_HEAD_HEADER,
    REPLAYED_HEADER,
    REQUEST_ID_HEADER,
    Charge,
    ConceptReply,
    ConceptRequest,
    Encoder,
    ImagesReply,
    ImagesRequest,
    Limits,
    LossReply,
    LossRequest,
    ModelCard,
    Prices,
    Problem,
    ProblemCode,
    Receipt,
    ReceiptsReply,
    Rejection,
    Sample,
    UsageReply,
    VocabularyReply,
    decode_tensor,
    encode_tensor,
    images_cost,
    loss_cost,
)

__all__ = ["FakeHost", "fake_endpoint", "loss_request", "png"]

URL = "http://127.0.0.1:9"
PRICES = Prices(forward_micros=3, query_micros=7)
_ZEROS = "0" * 64


class HostProblemError(Exception):
    def __init__(self, status: int, code: ProblemCode, detail: str = "no") -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


@dataclass
class FakeHost:
    """A host's whole state; `transport()` is the way to it, and every method may be called from many threads.

    `max_forwards` caps the account. Embeddings with a norm over `max_norm` are rejected alone.
    """

    seed: int = 0
    dim: int = 8
    words: tuple[str, ...] = ("cat", "dog", "red", "blue", "circle", "square", "star", "toy", "photo", "sketch")
    reply_mode: str = "exact"
    vocabulary: bool = True
    prices: Prices = PRICES
    max_norm: float = 1e6
    max_forwards: int | None = None
    api_key: str | None = None
    fingerprint: str = hashlib.sha256(b"fake").hexdigest()
    stored: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    concepts: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.table: NDArray[np.float32] = rng.normal(0, 0.1, (len(self.words), self.dim)).astype(np.float32)
        self.target: NDArray[np.float32] = (self.table[0] + rng.normal(0, 0.05, self.dim)).astype(np.float32)
        self.signer = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(str(self.seed).encode()).digest())
        self.lock = threading.RLock()

    def transport(self) -> httpx.MockTransport:
        """Return the way to this host for an httpx client."""
        return httpx.MockTransport(self.handle)

    @property
    def forwards(self) -> int:
        """Forwards charged so far."""
        return sum(receipt.forwards for receipt in self.receipts)

    @property
    def card(self) -> ModelCard:
        """What `GET /v1/model` says."""
        norms = np.linalg.norm(self.table, axis=1)
        public = self.signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        return ModelCard(
            protocol_version="1",
            model="fake",
            family="fake",
            fingerprint=self.fingerprint,
            encoders=[Encoder(name="text", dim=self.dim, norm_mean=float(norms.mean()), norm_std=float(norms.std()))],
            resolution=8,
            prediction_type="epsilon",
            objectives=["loss", "images"],
            reply_mode=self.reply_mode,  # type: ignore[arg-type]
            vocabulary=self.vocabulary,
            limits=Limits(max_norm=self.max_norm),
            prices=self.prices,
            receipt_public_key=public,
        )

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        with self.lock:
            self.requests.append((request.method, request.url.path))
            try:
                response = self._route(request)
            except HostProblemError as error:
                response = _problem(error)
            except ValidationError:
                response = _problem(HostProblemError(400, ProblemCode.INVALID_REQUEST))
            response.headers[REQUEST_ID_HEADER] = f"req-{len(self.requests)}"
            response.headers[RECEIPT_HEAD_HEADER] = self.receipts[-1].hash if self.receipts else _ZEROS
            return response

    def _route(self, request: httpx.Request) -> httpx.Response:
        if self.api_key is not None and request.headers.get("authorization") != f"Bearer {self.api_key}":
            raise HostProblemError(401, ProblemCode.UNAUTHENTICATED)
        routes: dict[tuple[str, str], Callable[[httpx.Request], httpx.Response]] = {
            ("GET", "/v1/model"): lambda _: _json(self.card),
            ("POST", "/v1/concepts"): self._register,
            ("POST", "/v1/loss"): lambda r: self._charged(r, "/v1/loss", self._losses),
            ("POST", "/v1/images"): lambda r: self._charged(r, "/v1/images", self._images),
            ("GET", "/v1/vocabulary"): self._vocabulary,
            ("GET", "/v1/usage"): lambda _: _json(self._usage()),
            ("GET", "/v1/receipts"): self._receipts,
        }
        if request.method == "DELETE" and request.url.path.startswith("/v1/concepts/"):
            self.concepts.pop(request.url.path.rsplit("/", 1)[1], None)
            return httpx.Response(204)
        route = routes.get((request.method, request.url.path))
        if route is None:
            raise HostProblemError(404, ProblemCode.NOT_FOUND)
        return route(request)

    def _register(self, request: httpx.Request) -> httpx.Response:
        asked = ConceptRequest.model_validate_json(request.content)
        concept = hashlib.sha256(canonical_bytes(asked)).hexdigest()[:32]
        self.concepts[concept] = len(asked.images)
        return _json(ConceptReply(concept=concept, images=len(asked.images)))

    def _charged(
        self,
        request: httpx.Request,
        route: str,
        answer: Callable[[bytes], tuple[Any, tuple[int, int], tuple[int, int]]],
    ) -> httpx.Response:
        key = request.headers.get(IDEMPOTENCY_KEY_HEADER)
        if key is None:
            raise HostProblemError(400, ProblemCode.IDEMPOTENCY_KEY_MISSING)
        digest = hashlib.sha256(request.content).hexdigest()
        if key in self.stored:
            if self.stored[key][0] != digest:
                raise HostProblemError(422, ProblemCode.IDEMPOTENCY_KEY_REUSED)
            return _json(self.stored[key][1], {REPLAYED_HEADER: "true"})
        reply, asked, cost = answer(request.content)
        if self.max_forwards is not None and self.forwards + asked[0] > self.max_forwards:
            raise HostProblemError(429, ProblemCode.BUDGET_SPENT)
        charge = self._charge(key, digest, route, cost)
        body = canonical_bytes(reply.model_copy(update={"charge": charge}))
        self.stored[key] = (digest, body)
        return _json(body)

    def _charge(self, key: str, digest: str, route: str, cost: tuple[int, int]) -> Charge:
        forwards, queries = cost
        price = self.prices.price_of(forwards, queries)
        unsigned = Receipt(
            sequence=len(self.receipts) + 1,
            account="fake",
            idempotency_key=key,
            request_sha256=digest,
            route=route,
            fingerprint=self.fingerprint,
            forwards=forwards,
            queries=queries,
            price_micros=price,
            currency=self.prices.currency,
            issued_at=datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
            previous=self.receipts[-1].hash if self.receipts else _ZEROS,
            hash=_ZEROS,
            signature="0" * 128,
        )
        content = receipt_bytes(unsigned)
        signed = {"hash": hashlib.sha256(content).hexdigest(), "signature": self.signer.sign(content).hex()}
        self.receipts.append(unsigned.model_copy(update=signed))
        return Charge(forwards=forwards, queries=queries, price_micros=price, receipt=self.receipts[-1])

    def _losses(self, body: bytes) -> tuple[LossReply, tuple[int, int], tuple[int, int]]:
        asked = LossRequest.model_validate_json(body)
        if asked.concept not in self.concepts:
            raise HostProblemError(404, ProblemCode.CONCEPT_NOT_FOUND)
        embeddings = decode_tensor(asked.embeddings["text"])
        good = [c for c, e in enumerate(embeddings) if np.linalg.norm(e, axis=-1).max() <= self.max_norm]
        rejected = [_rejection(c) for c in range(len(embeddings)) if c not in good]
        losses = np.array([[self.loss(embeddings[c], s) for s in asked.samples] for c in good], dtype=np.float32)
        losses = losses.reshape(len(good), len(asked.samples))
        ranking = [good[i] for i in np.argsort(losses.mean(axis=1), kind="stable")]
        ranked = self.reply_mode == "rank"
        reply = LossReply(
            candidates=good,
            losses=None if ranked else encode_tensor(losses),
            ranking=ranking if ranked else None,
            rejected=rejected,
            charge=Charge(forwards=0, queries=0, price_micros=0),
        )
        n = len(asked.samples)
        return reply, loss_cost(len(embeddings), n), loss_cost(len(good), n)

    def loss(self, embedding: NDArray[np.float32], sample: Sample) -> float:
        """Return one candidate's loss on one sample: embedding (T, D)."""
        noise = np.random.default_rng([self.seed, sample.image, sample.seed]).normal()
        distance = float(np.mean((embedding.astype(np.float64) - self.target) ** 2))
        return 0.25 + (0.5 + sample.t) * distance + 0.05 * float(noise)

    def _images(self, body: bytes) -> tuple[ImagesReply, tuple[int, int], tuple[int, int]]:
        asked = ImagesRequest.model_validate_json(body)
        embeddings = decode_tensor(asked.embeddings["text"])
        good = {c for c, e in enumerate(embeddings) if np.linalg.norm(e, axis=-1).max() <= self.max_norm}
        size = (asked.width or 8, asked.height or 8)
        pictures = [
            _picture(embeddings[i.candidate], i.seed, size) if i.candidate in good else None for i in asked.items
        ]
        rejected = [_rejection(c) for c in range(len(embeddings)) if c not in good]
        reply = ImagesReply(images=pictures, rejected=rejected, charge=Charge(forwards=0, queries=0, price_micros=0))
        made = sum(p is not None for p in pictures)
        steps, guidance = asked.num_inference_steps, asked.guidance_scale
        return reply, images_cost(len(asked.items), steps, guidance), images_cost(made, steps, guidance)

    def _vocabulary(self, request: httpx.Request) -> httpx.Response:
        if not self.vocabulary:
            raise HostProblemError(404, ProblemCode.NOT_OFFERED)
        offset = int(request.url.params.get("offset", "0"))
        page = self.words[offset : offset + 4]
        reply = VocabularyReply(
            encoder=request.url.params["encoder"],
            total=len(self.words),
            offset=offset,
            tokens=list(page),
            embeddings=encode_tensor(self.table[offset : offset + 4]),
        )
        return _json(reply)

    def _usage(self) -> UsageReply:
        return UsageReply(
            account="fake",
            forwards=self.forwards,
            queries=sum(r.queries for r in self.receipts),
            price_micros=sum(r.price_micros for r in self.receipts),
            currency=self.prices.currency,
            max_forwards=self.max_forwards,
            receipts=len(self.receipts),
            head=self.receipts[-1].hash if self.receipts else None,
        )

    def _receipts(self, request: httpx.Request) -> httpx.Response:
        after = int(request.url.params.get("after", "0"))
        page = [r for r in self.receipts if r.sequence > after][:5]
        more = bool(page) and page[-1].sequence < len(self.receipts)
        return _json(ReceiptsReply(receipts=page, next_after=page[-1].sequence if more else None))


def fake_endpoint(
    host: FakeHost | None = None,
    *,
    http: httpx.BaseTransport | None = None,
    on_attempt: Callable[[Attempt], None] | None = None,
    api_key: str | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> HttpEndpoint:
    """Return an endpoint over a fake host (or over `http`), whose waits take no time."""
    way = http if http is not None else (host or FakeHost()).transport()
    rng = np.random.default_rng(seed)
    return HttpEndpoint(
        URL, api_key=api_key, http=way, on_attempt=on_attempt, rng=rng, sleep=lambda _: None, clock=clock
    )


def loss_request(
    concept: str, embeddings: NDArray[Any], *, samples: int = 4, seed: int = 0, placeholder_token: str = "<sks>"
) -> LossRequest:
    """Return a request to score embeddings (B, T, D) on `samples` samples that `seed` draws."""
    rng = np.random.default_rng(seed)
    bank = [
        Sample(image=0, prompt=0, t=float(rng.uniform(0.1, 0.9)), seed=int(rng.integers(2**31))) for _ in range(samples)
    ]
    return LossRequest(
        concept=concept,
        placeholder_token=placeholder_token,
        embeddings={"text": encode_tensor(embeddings)},
        prompts=[f"a photo of {placeholder_token}"],
        samples=bank,
    )


def png(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (8, 8)) -> bytes:
    """Return a plain PNG file."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, format="PNG")
    return stream.getvalue()


def _picture(embedding: NDArray[np.float32], seed: int, size: tuple[int, int]) -> str:
    digest = hashlib.sha256(embedding.tobytes() + seed.to_bytes(8, "little")).digest()
    return base64.b64encode(png((digest[0], digest[1], digest[2]), size)).decode("ascii")


def _rejection(candidate: int) -> Rejection:
    return Rejection(candidate=candidate, code=ProblemCode.INVALID_TENSOR, detail="norm over the bound")


def _json(record: BaseModel | bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    content = record if isinstance(record, bytes) else canonical_bytes(record)
    return httpx.Response(200, content=content, headers={"Content-Type": "application/json", **(headers or {})})


def _problem(error: HostProblemError) -> httpx.Response:
    body = Problem(status=error.status, code=error.code, detail=error.detail, retryable=False)
    headers = {"Content-Type": PROBLEM_MEDIA_TYPE}
    return httpx.Response(error.status, content=json.dumps(body.model_dump(mode="json")).encode(), headers=headers)
