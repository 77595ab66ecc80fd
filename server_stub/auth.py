"""Who a request is from, and what it may do: dependencies of the routes.

A credential is a Bearer key, or else the client certificate of the connection. Without either, a host on loopback for
which no credential was ever made serves its own machine as the account `local`; everyone else is refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Final

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from blackbox_ti.wire import ProblemCode
from server_stub.accounts import Principal, Scope
from server_stub.host import Host
from server_stub.limiter import Limiter, TooManyError
from server_stub.problems import ProblemError
from server_stub.settings import is_loopback

__all__ = ["CLIENT_CERTIFICATE", "HostDep", "admitted", "host_of", "requires"]

CLIENT_CERTIFICATE: Final = "blackbox_ti.client_certificate"

_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="blackbox-ti"'}


def host_of(request: Request) -> Host:
    """Return the host whose app the request reached."""
    host: Host = request.app.state.host
    return host


HostDep = Annotated[Host, Depends(host_of)]


def requires(*scopes: Scope) -> Callable[[Request, Host], Awaitable[Principal]]:
    """Return a dependency that lets in whoever holds all `scopes` and has not used up the rate."""

    async def principal(request: Request, host: HostDep) -> Principal:
        found = await run_in_threadpool(_identify, host, request)
        request.state.account = found.account
        allowance = _take(host.limiter, _name(found))
        request.state.allowance = allowance
        missing = [scope for scope in scopes if scope not in found.scopes]
        if missing:
            raise ProblemError(ProblemCode.FORBIDDEN, f"the key lacks the scope {', '.join(missing)}")
        return found

    return principal


async def admitted(host: Host, principal: Principal) -> AsyncIterator[None]:
    """Hold one of the principal's slots for requests at the same time."""
    try:
        with host.limiter.slot(_name(principal), retry_after=host.settings.retry_after):
            yield
    except TooManyError as error:
        raise _too_many(error) from error


def _name(principal: Principal) -> str:
    return principal.credential or f"account:{principal.account_id}"


def _identify(host: Host, request: Request) -> Principal:
    """Return the principal of a request; guesses from one address are slowed down, valid keys never are."""
    header = request.headers.get("authorization")
    certificate = request.scope.get(CLIENT_CERTIFICATE)
    found: Principal | None = None
    if header is not None:
        scheme, _, key = header.partition(" ")
        found = host.accounts.authenticate_key(key.strip()) if scheme.lower() == "bearer" else None
    elif certificate is not None:
        found = host.accounts.authenticate_certificate(certificate)
    elif _is_own_machine(host, request):
        found = host.local
    if found is None:
        _take(host.strangers, request.client.host if request.client else "")
        raise ProblemError(ProblemCode.UNAUTHENTICATED, "send a valid key as a Bearer token", headers=_CHALLENGE)
    return found


def _is_own_machine(host: Host, request: Request) -> bool:
    """Return whether a request without a credential may be served.

    The Host header has to name loopback too: a web page may point a name of its own at this machine (DNS rebinding).
    """
    settings = host.settings
    if not is_loopback(settings.host) or settings.behind_tls_proxy:
        return False
    return is_loopback(request.url.hostname or "") and not host.accounts.guarded()


def _take(limiter: Limiter, name: str) -> dict[str, str]:
    try:
        return limiter.take(name).headers()
    except TooManyError as error:
        raise _too_many(error) from error


def _too_many(error: TooManyError) -> ProblemError:
    headers = error.allowance.headers()
    return ProblemError(ProblemCode.RATE_LIMITED, str(error), retry_after=error.retry_after, headers=headers)
