"""Staleness: why a tuning record of this very problem is not to be relied on any more.

A record is portable and outlives what it was measured with; an artefact does not. What a record depends on is what can
change who is fastest: the recipe's text, for a C++ kernel the compiler's family and major version, for a library call
torch's version. Anything finer would throw measurements away at every security update. A stale record is not used, and
its schedule is among the first that the next search tries.
"""

from __future__ import annotations

import re

from gridstone.ir.errors import ScheduleError
from gridstone.kernel_cache.make import TOOLCHAINS
from gridstone.kernel_cache.records import Record
from gridstone.lower.target import TARGETS
from gridstone.templates.registry import recipe_named
from gridstone.templates.render import recipe_hash


def stale(record: Record) -> str:
    """Return what has changed since a record was measured, as a sentence; empty when it holds."""
    try:
        current = recipe_hash(recipe_named(record.recipe))
    except ScheduleError:
        return f"there is no recipe {record.recipe} any more"
    if current != record.recipe_hash:
        return f"the recipe {record.recipe} has changed since it was measured"
    return environment_change(record)


def environment_change(record: Record) -> str:
    """Return with what else than is here a record was measured; empty where that is the same, or cannot be compared."""
    target = TARGETS.get(record.target)
    if target is None or TOOLCHAINS[target.language].missing():
        return ""
    now, then = dict(TOOLCHAINS[target.language].identity(target)), record.environment
    kinds = (("compiler", then.compiler, compiler_release), ("torch", then.torch, torch_release))
    for name, text, release in kinds:
        if name in now and release(text) != release(now[name]):
            return f"it was measured with {release(text)}, and this is {release(now[name])}"
    return ""


def compiler_release(version: str) -> str:
    """Return family and major version from the first line that a compiler prints for `--version`.

    >>> compiler_release("c++ (Ubuntu 13.3.0-6ubuntu2) 13.3.0"), compiler_release("Ubuntu clang version 18.1.3 (1)")
    ('gcc 13', 'clang 18')
    """
    bare = re.sub(r"\([^()]*\)", "", version)
    major = re.search(r"(\d+)\.\d", bare)
    words = bare.split()
    if major is None or not words:
        return version
    if "clang" in version.lower():
        return f"clang {major[1]}"
    return f"{'gcc' if re.match(r'.*([gc][+][+]|gcc)', words[0]) else words[0]} {major[1]}"


def torch_release(version: str) -> str:
    """Return torch's version without the build's label.

    >>> torch_release("2.10.0+cpu")
    'torch 2.10.0'
    """
    return f"torch {version.partition('+')[0]}"
