"""The server under fuzzing by its own OpenAPI document: no 5xx, no undocumented status, no route that ignores auth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server_stub.accounts import Accounts, Scope
from server_stub.database import Books
from server_stub.middleware import OPEN_ROUTES
from tests.e2e.server_processes import ServerProcess, fake_server, register
from tests.server_stub.served import embeddings

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# Seconds for a reply: what is slow on a busy machine is no finding.
PATIENCE = 300
# Cases of each operation, and how many that makes at least.
EXAMPLES = [(4, 80), pytest.param(500, 10_000, marks=pytest.mark.slow)]
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)


@contextmanager
def fuzzed(folder: Path) -> Iterator[tuple[ServerProcess, Any, dict[str, str]]]:
    """Yield a server without rate limits, its schema, and the headers of a key that may do all."""
    options: dict[str, Any] = {"requests_per_second": 1e9, "requests_burst": 10**9, "log_level": "error"}
    options["limits"] = {"max_body_bytes": 200_000, "max_concurrency": 64}
    with fake_server(folder, vocabulary=True, **options) as server:
        books = Books(f"sqlite:///{folder}/state/books.sqlite")
        _, key = Accounts(books).create_key("ada", scopes=tuple(Scope))
        books.close()
        headers = {"Authorization": f"Bearer {key}"}
        with server.client(headers=headers) as client:
            schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        yield server, schema, headers
        assert server.terminate() == 0
        assert server.log.read_text() == ""


def every_case(schema: Any, examples: int, check: Callable[[Any], None]) -> int:
    """Run `check` on so many cases of each operation, half of them wrong by the schema; return how many ran."""
    ran = 0
    configured = settings(
        max_examples=examples // 2,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for result in schema.get_all_operations():
        for mode in MODES:

            def run(case: Any) -> None:
                nonlocal ran
                ran += 1
                check(case)

            with suppress(Unsatisfiable):  # a route without parameters has no wrong ones
                configured(given(case=result.ok().as_strategy(generation_mode=mode))(run))()
    print(ran, "cases")
    return ran


@pytest.mark.parametrize(("examples", "least"), EXAMPLES)
def test_with_a_key_every_answer_is_documented_and_none_is_5xx(tmp_path: Path, examples: int, least: int) -> None:
    """Requests by and against the schema get only statuses, media types and bodies that the document names."""
    with fuzzed(tmp_path) as (server, schema, headers):
        with server.client(headers=headers) as client:
            concept = register(client)

        def check(case: Any) -> None:
            if isinstance(case.body, dict) and "concept" in case.body:
                case.body["concept"] = concept
                case.body["embeddings"] = embeddings([[[0.5] * 8]])
            case.call_and_validate(base_url=server.url, headers=headers, checks=CHECKS, timeout=PATIENCE)

        assert every_case(schema, examples, check) >= least


@pytest.mark.parametrize(("examples", "least"), EXAMPLES)
def test_without_a_key_every_route_refuses_whatever_is_sent(tmp_path: Path, examples: int, least: int) -> None:
    """Whatever the method, parameters and body, strangers get 401 or 429, except for health and readiness."""
    with fuzzed(tmp_path) as (server, schema, _):

        def check(case: Any) -> None:
            case.headers = {k: v for k, v in (case.headers or {}).items() if k.lower() != "authorization"}
            reply = case.call(base_url=server.url, timeout=PATIENCE)
            case.validate_response(reply, checks=CHECKS)
            assert case.path in OPEN_ROUTES or reply.status_code in {400, 401, 404, 405, 413, 429, 431}

        assert every_case(schema, examples, check) >= least
