"""What a job and its worker say to each other: messages, and their frames on a pair of pipes.

A frame is four bytes of length, little endian, and that many bytes of JSON. The pipes are the worker's own: what a
kernel prints does not reach them. No message names code to run other than a recipe of the registry.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from gridstone.ir.errors import BuildError, GridstoneError, LaunchError, MismatchError, ScheduleError

FRAME_LIMIT = 16 << 20  # bytes; a longer frame is garbage
_LENGTH = struct.Struct("<I")

CAUGHT: tuple[type[GridstoneError], ...] = (ScheduleError, BuildError, LaunchError, MismatchError)


class Entrant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A candidate by its texts."""

    recipe: str
    schedule: str
    target: str


class Open(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="open"):
    """Prepare a problem: draw operands, compute references. Answered by `Ready`.

    Args:
        spec: Static.
        storages: Those that the candidates' targets read weights from.
        threads: Of torch and of the kernels.
        seeds: Two or more; the first draws operands for the spec itself, the others for fewer rows.
        cache_root, cache_limit: The store that holds the built artefacts.
    """

    spec: str
    storages: tuple[str, ...]
    threads: int
    seeds: tuple[int, ...]
    cache_root: str
    cache_limit: int


class Screen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="screen"):
    """Check a candidate, time a few samples, check it again. Answered by `Screened` or `Refused`.

    Args:
        entrant: The candidate.
        samples: How many.
        enough: Seconds; of a call that takes longer, one is checked and one timed, which is its only sample.
    """

    entrant: Entrant
    samples: int
    enough: float | None = None


class Race(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="race"):
    """Time candidates in turn for some rounds, then check them. Answered by `Turn`s, then `Raced` or `Refused`.

    Args:
        entrants: The candidates.
        rounds: At most.
        seconds: No round begins after this long, but for the fewest rounds that a sign test can use.
        latest: No round begins after this long.
    """

    entrants: tuple[Entrant, ...]
    rounds: int
    seconds: float
    latest: float


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="ready"):
    """The problem is prepared."""


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a candidate compared with the reference, over all calls that were judged."""

    cases: int
    worst_element: float
    worst_rms: float


class Screened(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="screened"):
    """Outcome of a screening.

    Args:
        samples: Seconds of one call each, in order.
        voided: Blocks that were thrown away because the clock drifted.
        drift: Relative change of the sentinel over the block that counts.
        evidence: Of the checks before and after.
    """

    samples: tuple[float, ...]
    voided: int
    drift: float
    evidence: Evidence


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="turn"):
    """It is the turn of this entrant of the race: if the worker dies now, it is to blame."""

    at: int


class Raced(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="raced"):
    """Outcome of a race: seconds of one call by entrant and round.

    All start in round 0. One that lost every round by far leaves early, so its row is shorter, and it is not checked
    again: it has no evidence.
    """

    samples: tuple[tuple[float, ...], ...]
    evidence: tuple[Evidence | None, ...]


class Refused(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refused"):
    """A candidate could not be measured; `stage` names the class of the error, `at` the entrant of a race."""

    stage: str
    problem: str
    remedy: str
    at: int = 0

    def error(self) -> GridstoneError:
        """Return the error as it was raised in the worker."""
        kind = next((kind for kind in CAUGHT if kind.stage == self.stage), LaunchError)
        return kind(self.problem, self.remedy)


Request = Open | Screen | Race
Reply = Ready | Screened | Turn | Raced | Refused

_requests = msgspec.json.Decoder(Request)
_replies = msgspec.json.Decoder(Reply)


def frame(message: Request | Reply) -> bytes:
    """Return the bytes of a message."""
    body = msgspec.json.encode(message)
    return _LENGTH.pack(len(body)) + body


def read_request(read: Callable[[int], bytes]) -> Request:
    """Read one request; `read(n)` gives exactly n bytes or raises EOFError."""
    return _requests.decode(_body(read))


def read_reply(read: Callable[[int], bytes]) -> Reply:
    """Read one reply.

    Raises:
        ValueError: Garbage instead of a frame.
    """
    return _replies.decode(_body(read))


def _body(read: Callable[[int], bytes]) -> bytes:
    (length,) = _LENGTH.unpack(read(_LENGTH.size))
    if length > FRAME_LIMIT:
        raise ValueError(f"a frame of {length} bytes")
    return read(length)
