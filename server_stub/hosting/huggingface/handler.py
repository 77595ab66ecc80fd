"""The model repository this file lies in as a Hugging Face Inference Endpoint that Blackbox TI can search.

How to:

1. Copy this file and `requirements.txt` beside the `model_index.json` of a diffusers model (safetensors).
2. Make an Inference Endpoint of the repository, its task `custom`, protected by a token.
3. `BLACKBOX_TI_API_KEY=<token> blackbox-ti doctor --protocol hf --endpoint https://<name>.endpoints.huggingface.cloud`

Settings are the endpoint's environment variables, those of `server_stub.settings`: `BLACKBOX_TI_VOCABULARY=true` offers
the token table, `BLACKBOX_TI_DTYPE=float16` halves the memory, `BLACKBOX_TI_LIMITS__MAX_FORWARDS=256` keeps a request
within the time that the proxy in front waits for a reply.

The contract of custom handlers (huggingface.co/docs/inference-endpoints, "Create custom Inference Handler"): a class
`EndpointHandler` made with the repository's path and called with the body's JSON, whose result becomes the reply's:

    {"inputs": a record of the protocol, "parameters": {"task": ..., "idempotency_key": ..., "pictures": ...}}
    -> {"reply": a record of the protocol, "replayed": whether it was kept from before} or {"problem": why not}

Tasks are `model`, `concepts`, `delete_concept`, `loss`, `images` and `vocabulary`. A concept's id is the digest of its
pictures; one that this replica does not know comes back as the problem `concept_not_found`, and then the client sends
the same request with the pictures in it. The last replies are kept by their idempotency key, in this process alone:
another replica, or this one started anew, does the work again.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from blackbox_ti.budget import charge_of
from blackbox_ti.wire import (
    Charge,
    ConceptReply,
    ConceptRequest,
    ImagesRequest,
    LossRequest,
    ProblemCode,
    VocabularyReply,
    concept_digest,
)
from server_stub.concepts import Concept, ConceptStore
from server_stub.engine import Engine
from server_stub.host import model_card
from server_stub.hosting.answers import answer_images, answer_loss
from server_stub.problems import ProblemError, problem_response, validated
from server_stub.references import decode_pictures
from server_stub.replies import vocabulary_reply
from server_stub.settings import Settings

__all__ = ["EndpointHandler"]

_LOGGER: Final = logging.getLogger("blackbox_ti.handler")
# What the settings say of the model's form; pickled weights are not among it, whatever they say.
_OF_THE_ENGINE: Final = ("device", "dtype", "micro_batch", "resolution", "channels_last", "compile", "int8", "offload")
_KEPT_REPLIES: Final = 256
_KEPT_BYTES: Final = 2**26
_MAX_CONCEPTS: Final = 64


class _Parameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Annotated[str, Field(max_length=64)]
    idempotency_key: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    pictures: list[str] | None = None


class _Removal(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    concept: Annotated[str, Field(max_length=256)]


class _Page(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: Annotated[str, Field(max_length=256)]
    offset: Annotated[int, Field(ge=0, lt=2**31)] = 0


class EndpointHandler:
    """The engine of a diffusers directory behind the contract above; calls take turns.

    Raises:
        InputError: the model cannot be loaded.
    """

    def __init__(self, path: str = "", *, engine: Engine | None = None, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._engine = engine or _load(path, self._settings)
        self._engine.warm_up()
        self._card = model_card(self._engine, self._settings, None)
        self._concepts = ConceptStore(self._card.fingerprint, max_concepts=_MAX_CONCEPTS, max_per_account=_MAX_CONCEPTS)
        self._kept = _KeptReplies()
        self._turn = threading.Lock()

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return what is to be sent as JSON for the JSON that came; no exception leaves, for it would be told."""
        try:
            with self._turn:
                return self._answer(data)
        except ProblemError as error:
            return _problem(error)
        except Exception:
            _LOGGER.exception("a request failed")
            return _problem(ProblemError(ProblemCode.INTERNAL, "the host failed"))

    def _answer(self, data: Mapping[str, Any]) -> dict[str, Any]:
        tasks: dict[str, Callable[[_Parameters, Any], BaseModel]] = {
            "model": lambda _, __: self._card,
            "concepts": lambda _, inputs: self._register(validated(ConceptRequest, inputs).images),
            "delete_concept": lambda _, inputs: self._delete(validated(_Removal, inputs).concept),
            "vocabulary": lambda _, inputs: self._vocabulary(validated(_Page, inputs)),
        }
        charged: dict[str, Callable[[_Parameters, Any], BaseModel]] = {
            "loss": lambda parameters, inputs: self._losses(parameters, validated(LossRequest, inputs)),
            "images": lambda _, inputs: self._images(validated(ImagesRequest, inputs)),
        }
        parameters, inputs = validated(_Parameters, data.get("parameters")), data.get("inputs")
        if parameters.task in charged:
            return self._once(parameters, inputs, lambda: charged[parameters.task](parameters, inputs))
        if parameters.task not in tasks:
            raise ProblemError(ProblemCode.NOT_FOUND, f"the tasks are {', '.join([*tasks, *charged])}")
        return {"reply": tasks[parameters.task](parameters, inputs).model_dump(mode="json"), "replayed": False}

    def _once(self, parameters: _Parameters, inputs: Any, work: Callable[[], BaseModel]) -> dict[str, Any]:
        """Return the kept reply to the same request under the same key, or do the work and keep it."""
        if parameters.idempotency_key is None:
            raise ProblemError(ProblemCode.IDEMPOTENCY_KEY_MISSING, "parameters need an idempotency_key")
        digest = sha256(json.dumps([parameters.task, inputs], sort_keys=True).encode()).hexdigest()
        kept = self._kept.find(parameters.idempotency_key, digest)
        if kept is not None:
            return {"reply": json.loads(kept), "replayed": True}
        text = work().model_dump_json()
        self._kept.keep(parameters.idempotency_key, digest, text)
        return {"reply": json.loads(text), "replayed": False}

    def _register(self, files: Sequence[str]) -> ConceptReply:
        concept = self._encoded(files)
        return ConceptReply(concept=concept.id, images=len(concept.latents))

    def _encoded(self, files: Sequence[str]) -> Concept:
        """Return the concept of pictures (base64 files), encoded once."""
        pictures = decode_pictures(files, resolution=self._card.resolution, limits=self._card.limits)
        identifier = concept_digest([base64.b64decode(file) for file in files])
        known = self._concepts.get("", identifier)
        return known or self._concepts.put("", identifier, self._engine.encode_images(pictures))

    def _delete(self, concept: str) -> _Removal:
        self._concepts.delete("", concept)
        return _Removal(concept=concept)

    def _concept(self, wanted: str, pictures: Sequence[str] | None) -> Concept:
        """Return a concept known here, or that of the pictures in the request."""
        known = self._concepts.get("", wanted)
        if known is None and pictures is not None:
            known = self._encoded(pictures)
        if known is None or known.id != wanted:
            raise ProblemError(ProblemCode.CONCEPT_NOT_FOUND, "no such concept here; send its pictures in the request")
        return known

    def _losses(self, parameters: _Parameters, asked: LossRequest) -> BaseModel:
        self._offers("loss")
        latents = self._concept(asked.concept, parameters.pictures).latents
        return answer_loss(self._engine, self._card, asked, latents, self._charge)

    def _images(self, asked: ImagesRequest) -> BaseModel:
        self._offers("images")
        most = self._settings.max_side(self._card.resolution)
        return answer_images(self._engine, self._card, asked, most, self._charge)

    def _offers(self, objective: str) -> None:
        if objective not in self._card.objectives:
            raise ProblemError(ProblemCode.NOT_OFFERED, f"this host does not offer {objective}")

    def _charge(self, cost: tuple[int, int]) -> Charge:
        return charge_of(cost, self._card.prices)

    def _vocabulary(self, page: _Page) -> VocabularyReply:
        most = self._settings.max_vocabulary_page
        return vocabulary_reply(self._engine, self._card, page.encoder, page.offset, most)


class _KeptReplies:
    """The last replies by idempotency key, bounded in number and bytes."""

    def __init__(self) -> None:
        self._replies: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._bytes = 0

    def find(self, key: str, digest: str) -> str | None:
        """Return the reply kept under a key for that very request."""
        found = self._replies.get(key)
        if found is None:
            return None
        if found[0] != digest:
            raise ProblemError(ProblemCode.IDEMPOTENCY_KEY_REUSED, "the idempotency key belongs to another request")
        return found[1]

    def keep(self, key: str, digest: str, reply: str) -> None:
        """Keep a reply, and drop the oldest where there are too many."""
        self._replies[key] = (digest, reply)
        self._bytes += len(reply)
        while self._replies and (len(self._replies) > _KEPT_REPLIES or self._bytes > _KEPT_BYTES):
            _, (_, dropped) = self._replies.popitem(last=False)
            self._bytes -= len(dropped)


def _load(path: str, settings: Settings) -> Engine:
    from server_stub.diffusers_engine import DiffusersEngine

    return DiffusersEngine.load(path, **{name: getattr(settings, name) for name in _OF_THE_ENGINE})


def _problem(error: ProblemError) -> dict[str, Any]:
    return {"problem": json.loads(bytes(problem_response(error, None).body))}
