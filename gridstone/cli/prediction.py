"""What the cost model says of an emitted GPU kernel, as text and as JSON: as a prediction, and for which card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridstone.ir.spec import Spec
from gridstone.lower.cost import Cost, GemmSchedule, predict, rates
from gridstone.lower.target import Target

if TYPE_CHECKING:
    from gridstone.cli.console import Json

NO_ROWS = "nothing is predicted without a number of rows: write one for M"


def predicted(spec: Spec, schedule: GemmSchedule, target: Target) -> Cost | None:
    """Return the prediction for a GPU's kernel; None where the number of rows is not known, or is zero."""
    if spec.dims or not spec.input("x").static(0):
        return None
    return predict(spec, schedule, target)


def lines(cost: Cost | None, spec: Spec, target: Target) -> list[str]:
    """Return what is printed behind the source, without the marks of a comment."""
    if cost is None:
        return [NO_ROWS]
    floor = f"{cost.floor_bytes / 1e6:.1f} MB"
    return [
        f"predicted, not measured: of one {rates(target)}, for {spec.input('x').static(0)} rows",
        f"  time                {cost.seconds * 1e6:.1f} us, bound by {cost.bound}; "
        f"the floor's {cost.floor_seconds * 1e6:.1f} us are {cost.share:.0%} of it",
        f"  bytes               {cost.bytes / 1e6:.1f} MB, {cost.bytes_ratio:.3f} times the floor's {floor}",
        f"  blocks              {cost.blocks}, {cost.resident} a multiprocessor, {cost.waves:.2f} waves",
    ]


def as_json(cost: Cost | None, target: Target) -> Json:
    """Return the same as plain JSON values; null where nothing is predicted."""
    if cost is None:
        return None
    return {
        "card": target.card,
        "bandwidth": target.bandwidth,
        "bf16_flops": target.bf16_flops,
        "seconds": cost.seconds,
        "floor_seconds": cost.floor_seconds,
        "share_of_floor": cost.share,
        "bound": cost.bound,
        "bytes": cost.bytes,
        "floor_bytes": cost.floor_bytes,
        "bytes_ratio": cost.bytes_ratio,
        "blocks": cost.blocks,
        "blocks_per_multiprocessor": cost.resident,
        "waves": cost.waves,
        "engines": dict(cost.engines),
    }
