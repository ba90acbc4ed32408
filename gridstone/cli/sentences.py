"""The sentences that the demo embeds."""

from __future__ import annotations

from pathlib import Path

from gridstone.ir.errors import GridstoneError

FEWEST = 1
# In a wheel a copy lies beside this file; in a checkout the original lies in examples/.
PLACES = (Path(__file__).with_name("sentences.txt"), Path(__file__).parents[2] / "examples" / "sentences.txt")


def read_sentences(path: Path | None = None) -> list[str]:
    """Return the lines of a file that are not empty; of the demo's own file when no path is given.

    Raises:
        GridstoneError: The file cannot be read or holds no sentence.
    """
    places = [path] if path is not None else [place for place in PLACES if place.is_file()]
    if not places:
        raise GridstoneError("the demo's sentences are not installed", "give your own with --sentences FILE")
    try:
        lines = places[0].read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GridstoneError(f"{places[0]} cannot be read: {error}", "give a text file, one sentence a line") from None
    found = [line.strip() for line in lines if line.strip()]
    if len(found) < FEWEST:
        raise GridstoneError(f"{places[0]} holds no sentence", "write one sentence a line")
    return found
