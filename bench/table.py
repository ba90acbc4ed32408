"""The README's table of measured numbers, as Markdown rows made from files of results.

    python -m bench.table bench/results/gemm-*.json

One row a problem; the default schedule in numerics `exact`. Of a problem measured twice the later row counts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LIMIT = {1: "read", 4: "read"}  # by M; the bf16 dot's peak otherwise


def row_of(row: dict[str, object]) -> str | None:
    """Return one Markdown row, or None when the problem could not be measured."""
    ours = row.get("exact default")
    if not isinstance(ours, dict):
        return None
    m = int(str(row["m"]))
    limit = LIMIT.get(m, "dot")
    peers = [row.get("torch bf16"), row.get("torch int4")]
    ratios = [f"{peer['ms'] / ours['ms']:.2f}x" if isinstance(peer, dict) else "-" for peer in peers]
    cells = [
        f"{row['n']} x {row['k']}",
        str(m),
        str(row["threads"]),
        f"{ours['ms']:.3g} ms",
        f"{ours[limit] * 100:.0f} % of {limit}",
        f"{ours['floor'] * 100:.0f} %",
        *ratios,
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the rows of the files given."""
    rows: dict[tuple[object, ...], str] = {}
    for name in sys.argv[1:]:
        for row in json.loads(Path(name).read_text())["rows"]:
            text = row_of(row)
            if text is not None:
                rows[row["threads"], row["n"], row["k"], row["m"]] = text
    print("\n".join(rows.values()))


if __name__ == "__main__":
    main()
