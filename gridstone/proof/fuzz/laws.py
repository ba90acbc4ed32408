"""The subjects that are laws: pure functions and files, tried with whatever Hypothesis draws."""

from __future__ import annotations

from gridstone.proof.fuzz import entries, layouts, packing, texts
from gridstone.proof.fuzz.subject import Subject

LAWS: tuple[Subject, ...] = (texts.SUBJECT, layouts.SUBJECT, packing.SUBJECT, entries.SUBJECT)
