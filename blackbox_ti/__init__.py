"""Textual inversion with forward passes only, against a remote endpoint."""

from blackbox_ti.booked import BookedEndpoint
from blackbox_ti.budget import Caps
from blackbox_ti.callable_endpoint import CallableEndpoint
from blackbox_ti.clip import Clip, clip_similarity
from blackbox_ti.concept import Concept, load_concept
from blackbox_ti.connection import ConnectionOptions
from blackbox_ti.embedding import load_embedding, save_embedding
from blackbox_ti.endpoint import Endpoint, Guarantees, Vocabulary
from blackbox_ti.errors import BlackboxTIError
from blackbox_ti.generate import generate
from blackbox_ti.hf_endpoint import HfEndpoint
from blackbox_ti.http_endpoint import HttpEndpoint
from blackbox_ti.inversion import InversionResult, StopReason, invert
from blackbox_ti.ledger import Ledger
from blackbox_ti.plan import Plan
from blackbox_ti.progress import Progress
from blackbox_ti.scorers import CallableScorer, ClipScorer, Scorer, load_scorer
from blackbox_ti.settings import InversionSettings

__all__ = [
    "BlackboxTIError",
    "BookedEndpoint",
    "CallableEndpoint",
    "CallableScorer",
    "Caps",
    "Clip",
    "ClipScorer",
    "Concept",
    "ConnectionOptions",
    "Endpoint",
    "Guarantees",
    "HfEndpoint",
    "HttpEndpoint",
    "InversionResult",
    "InversionSettings",
    "Ledger",
    "Plan",
    "Progress",
    "Scorer",
    "StopReason",
    "Vocabulary",
    "clip_similarity",
    "generate",
    "invert",
    "load_concept",
    "load_embedding",
    "load_scorer",
    "save_embedding",
]
