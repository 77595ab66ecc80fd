"""The exception tree; every message says what happened and what to do.

BlackboxTIError
├── InputError                 what the user gave cannot be used          exit code 2
│   ├── ImageError             a picture is missing, broken or too large            3
│   ├── PlaceholderError       the placeholder is not a free token                  4
│   ├── OutputError            the output folder cannot be used                     5
│   └── ScorerError            the scorer is missing, failed, or gave no number     2
├── BudgetError                the cap does not allow the next step                 6
│   ├── BudgetTooSmallError    not even one generation fits                         6
│   └── BudgetSpentError       a request would go over the cap, here or at the host 6
├── EndpointError              the host did not do what was asked                   7
│   ├── ConnectError           no host answers there                                7
│   ├── ProtocolError          something answers that is not one of ours            8
│   ├── AuthError              the key is missing, wrong, or lacks the scope        9
│   ├── RejectedError          the host refused the request (`problem` says why)   10
│   └── OverloadedError        the host stayed too busy until the deadline         11
├── WireError                  bytes that do not decode to the protocol             8
├── LedgerError                the run's book cannot be used or does not verify    12
│   └── ResumeError            the run changed since it was interrupted            13
└── SearchError                ask and tell were not used as a pair                70
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from blackbox_ti.wire import Problem

__all__ = [
    "AuthError",
    "BlackboxTIError",
    "BudgetError",
    "BudgetSpentError",
    "BudgetTooSmallError",
    "ConnectError",
    "EndpointError",
    "ImageError",
    "InputError",
    "LedgerError",
    "OutputError",
    "OverloadedError",
    "PlaceholderError",
    "ProtocolError",
    "RejectedError",
    "ResumeError",
    "ScorerError",
    "SearchError",
    "WireError",
]


class BlackboxTIError(Exception):
    """The base of all errors raised on purpose by this package; `exit_code` is the command line's."""

    exit_code: ClassVar[int] = 1


class InputError(BlackboxTIError):
    """What the user gave cannot be used."""

    exit_code = 2


class ImageError(InputError):
    """A picture is missing, broken, of a format not read here, or too large."""

    exit_code = 3


class PlaceholderError(InputError):
    """The placeholder is already a token of the model, or cannot be one."""

    exit_code = 4


class OutputError(InputError):
    """The output folder is in use or cannot be written."""

    exit_code = 5


class ScorerError(InputError):
    """The scorer is not there, failed, or did not return one finite number a picture."""


class BudgetError(BlackboxTIError):
    """A cap does not allow the next step."""

    exit_code = 6


class BudgetTooSmallError(BudgetError):
    """Not even one generation fits into the cap."""


class BudgetSpentError(BudgetError):
    """The next request would go over a cap, the run's own or the account's at the host."""


class EndpointError(BlackboxTIError):
    """The host did not do what was asked; `problem` is its own account of it, when it gave one."""

    exit_code = 7

    def __init__(self, message: str, *, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class ConnectError(EndpointError):
    """No host answers at that address."""


class ProtocolError(EndpointError):
    """Something answers, but not as this protocol says."""

    exit_code = 8


class AuthError(EndpointError):
    """The key is missing, wrong, expired, or lacks the scope."""

    exit_code = 9


class RejectedError(EndpointError):
    """The host refused the request and would refuse it again."""

    exit_code = 10


class OverloadedError(EndpointError):
    """The host stayed too busy, or kept failing, until the deadline."""

    exit_code = 11


class WireError(BlackboxTIError):
    """Bytes that do not decode to a record or tensor of the protocol."""

    exit_code = 8


class LedgerError(BlackboxTIError):
    """The run's book cannot be used, or does not verify."""

    exit_code = 12


class ResumeError(LedgerError):
    """The endpoint, the model, the pictures or the settings differ from the interrupted run's."""

    exit_code = 13


class SearchError(BlackboxTIError):
    """`ask` and `tell` were not used as a pair, or fitness was not one finite number a candidate."""

    exit_code = 70
