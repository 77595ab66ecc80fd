"""Tests of accounts and credentials."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from server_stub.accounts import LOCAL_ACCOUNT, USER_SCOPES, Accounts, Scope
from server_stub.database import Books
from tests.server_stub.books import Clock


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still."""
    return Clock()


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    """Yield fresh books."""
    made = Books(f"sqlite:///{tmp_path / 'books.sqlite'}")
    yield made
    made.close()


@pytest.fixture
def accounts(books: Books, clock: Clock) -> Accounts:
    """Return the accounts of fresh books."""
    return Accounts(books, clock=clock)


def test_a_key_opens_its_account_alone(accounts: Accounts) -> None:
    """The key is known by its account and scopes; any other text is nobody's."""
    identifier, key = accounts.create_key("ada", scopes=[Scope.LOSS])
    other = accounts.create_key("bob")[1]
    found = accounts.authenticate_key(key)
    assert found is not None
    assert (found.account, found.scopes, found.credential) == ("ada", frozenset({Scope.LOSS}), identifier)
    mixed = f"bti_{identifier}_{other.split('_', 2)[2]}"
    for wrong in ("", "bti_", key[:-1], key + "A", key.upper(), mixed, f"bti_{'0' * 16}_{key[-43:]}"):
        assert accounts.authenticate_key(wrong) is None


def test_the_books_do_not_hold_the_key(accounts: Accounts, tmp_path: Path) -> None:
    """Neither the key nor its secret part is in the database's files."""
    _, key = accounts.create_key("ada")
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key.split("_", 2)[2].encode() not in stored


def test_keys_have_256_random_bits_and_differ(accounts: Accounts) -> None:
    """The secret part is 43 characters of base64url, and no two keys share it."""
    secrets = {accounts.create_key("ada")[1].split("_", 2)[2] for _ in range(20)}
    assert (len(secrets), {len(secret) for secret in secrets}) == (20, {43})


def test_an_expired_key_is_refused_from_its_moment_on(accounts: Accounts, clock: Clock) -> None:
    """A key works until the moment it expires and not at it."""
    _, key = accounts.create_key("ada", expires_at=clock.now + 10)
    clock.now += 9.5
    assert accounts.authenticate_key(key) is not None
    clock.now += 0.5
    assert accounts.authenticate_key(key) is None


def test_a_revoked_key_stays_revoked_and_the_host_stays_guarded(accounts: Accounts) -> None:
    """Revocation is at once, repeatable, and does not open the host to strangers again."""
    assert not accounts.guarded()
    identifier, key = accounts.create_key("ada")
    assert accounts.revoke(identifier)
    assert accounts.revoke(identifier)
    assert accounts.authenticate_key(key) is None
    assert accounts.guarded()
    assert not accounts.revoke("0" * 16)


def test_a_certificate_is_a_credential_but_not_a_key(accounts: Accounts) -> None:
    """A certificate is found by its bytes, belongs to one account, and can be revoked."""
    identifier = accounts.add_certificate("ada", b"der")
    found = accounts.authenticate_certificate(b"der")
    assert found is not None
    assert found.account == "ada"
    assert accounts.authenticate_certificate(b"other") is None
    with pytest.raises(ValueError, match="already belongs"):
        accounts.add_certificate("bob", b"der")
    accounts.revoke(identifier)
    assert accounts.authenticate_certificate(b"der") is None


def test_the_metrics_scope_is_given_by_name_only(accounts: Accounts) -> None:
    """An ordinary key may not read the host's metrics; the local account may do all."""
    found = accounts.authenticate_key(accounts.create_key("ada")[1])
    assert found is not None
    assert found.scopes == USER_SCOPES == frozenset(Scope) - {Scope.METRICS}
    assert (accounts.local().account, accounts.local().scopes) == (LOCAL_ACCOUNT, frozenset(Scope))


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "ä", "-a", "a" * 65, "a\n"])
def test_a_name_that_is_none_is_refused(accounts: Accounts, name: str) -> None:
    """Account names are short and plain, so that they can stand in logs and receipts."""
    with pytest.raises(ValueError, match="account's name"):
        accounts.ensure(name)


def test_the_list_shows_everything_but_secrets(accounts: Accounts, books: Books, clock: Clock) -> None:
    """Listing shows ids, accounts, scopes and times, in the order they were made."""
    first, _ = accounts.create_key("ada", scopes=[Scope.LOSS, Scope.IMAGES])
    clock.now += 1
    second = accounts.add_certificate("bob", b"der")
    listed = accounts.list()
    assert [(c.id, c.account, c.kind) for c in listed] == [(first, "ada", "key"), (second, "bob", "certificate")]
    assert listed[0].scopes == (Scope.IMAGES, Scope.LOSS)
    with books.read() as connection:
        digests = set(connection.execute(sa.text("SELECT digest FROM credentials")).scalars())
    assert not digests & {str(value) for c in listed for value in vars(c).values()}
