"""A worker of `gridstone fuzz`, and the list of everything that is fuzzed: `python -m gridstone.cli.fuzz_worker`."""

from __future__ import annotations

from gridstone.proof.fuzz.kernels import SUBJECTS
from gridstone.proof.fuzz.laws import LAWS
from gridstone.proof.fuzz.subject import Subject
from gridstone.proof.fuzz.worker import serve
from gridstone.runtime.fuzz.programs import PROGRAMS

FUZZED: tuple[Subject, ...] = (*SUBJECTS, *LAWS, PROGRAMS)

if __name__ == "__main__":
    serve(FUZZED)
