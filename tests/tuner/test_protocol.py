import io

import pytest

from gridstone.ir.errors import BuildError, LaunchError, MismatchError, ScheduleError
from gridstone.tuner.protocol import (
    Entrant,
    Evidence,
    Open,
    Race,
    Raced,
    Ready,
    Refused,
    Screen,
    Screened,
    Turn,
    frame,
    read_reply,
    read_request,
)

ENTRANT = Entrant("gemm.cpp.direct", "direct(m_r=6)", "cpp:avx2")
EVIDENCE = Evidence(3, 0.5, 0.25)
REQUESTS = [
    Open("gemm[x: f32(8,64), w: f32(48,64)]", ("lane16",), 2, (1, 2), "/tmp/é", 1 << 30),
    Screen(ENTRANT, 7),
    Screen(ENTRANT, 7, 0.25),
    Race((ENTRANT, ENTRANT), 21, 1.5, 2.0),
]
REPLIES = [
    Ready(),
    Screened((1e-6, 2e-6), 1, 0.01, EVIDENCE),
    Turn(3),
    Raced(((1.0,), (2.0, 3.0)), (None, EVIDENCE)),
    Refused("build", "it broke", "mend it", 1),
]


def exactly(data):
    stream = io.BytesIO(data)

    def read(count):
        part = stream.read(count)
        if len(part) < count:
            raise EOFError
        return part

    return read


@pytest.mark.parametrize(
    ("read", "messages"), [(read_request, REQUESTS), (read_reply, REPLIES)], ids=["requests", "replies"]
)
def test_messages_come_back_equal(read, messages):
    stream = exactly(b"".join(map(frame, messages)))
    assert [read(stream) for _ in messages] == messages


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xff\xff\xff", b"\x02\x00\x00\x00{]", b"\x02\x00\x00\x00{}", b'\x10\x00\x00\x00{"type":"screen"}'],
)
def test_garbage_is_refused(garbage):
    with pytest.raises(ValueError):
        read_reply(exactly(garbage))


def test_torn_frames_end():
    whole = frame(REPLIES[1])
    for length in range(len(whole)):
        with pytest.raises(EOFError):
            read_reply(exactly(whole[:length]))


@pytest.mark.parametrize("kind", [ScheduleError, BuildError, LaunchError, MismatchError])
def test_errors_keep_their_class(kind):
    error = Refused(kind.stage, "a problem", "a remedy").error()
    assert type(error) is kind
    assert str(error) == str(kind("a problem", "a remedy"))
