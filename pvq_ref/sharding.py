"""Many workers for one output: each codes a share of the units, one joins them.

Workers need nothing of each other but a folder that all of them see. They hold the lock of the
output together; whoever joins the pieces holds it alone.
"""

import re
from os import PathLike, fspath
from pathlib import Path

from pvq_ref.assembly import Assembly
from pvq_ref.errors import DomainError, OutputError
from pvq_ref.memory import Limits
from pvq_ref.model import Model, open_model
from pvq_ref.output import partial_path, target_path
from pvq_ref.plan import Plan, Settings, make_plan
from pvq_ref.running import Result, Run, check_output, complete, state_of, working
from pvq_ref.units import Method, all_units, code_units, share_of
from pvq_ref.workfolder import read_state

MAX_SHARDS = 1 << 20


def shard_of(text: str) -> tuple[int, int]:
    """Return the number and the count that `i/N` stands for, 1 <= i <= N. Raises DomainError.

    >>> shard_of("2/16")
    (2, 16)
    """
    found = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count <= MAX_SHARDS:
        raise DomainError(f"shard must be i/N with i from 1 to N <= {MAX_SHARDS}, got {text!r}")
    return number, count


def compress_shard(
    model: Model, plan: Plan, target: Path, method: Method, how: Run, shard: tuple[int, int]
) -> int:
    """Code one share of a plan's units into OUT.partial; return the weights of that share.

    What is finished of it is kept, as if to resume. The shares of shard (i, N), i from 1 to N, are
    disjoint and cover everything. Raises what `run` raises.
    """
    number, count = shard
    check_output(model, plan, target, how.force)
    mine = share_of(all_units(plan, method.whole), number - 1, count)
    with working(target, state_of(model, plan, method), how, shared=True) as work:
        code_units(model, mine, method, work, how.limits, how.progress)
    return sum(unit.weights for unit in mine)


def merge(src: str | PathLike[str], dst: str | PathLike[str], *, force: bool = False) -> Result:
    """Put an output together of what all shards have left in dst.partial.

    Parameters: src, the model that the shards had; dst, their output; force as in `compress`. The
    bytes are those of a single run. Raises OutputError, ModelError; shards that weren't finished
    can be run again, and then this.
    """
    model, target = open_model(fspath(src)), target_path(dst)
    partial = partial_path(target)
    kept = read_state(target)
    if kept is None:
        raise OutputError(f"{partial} must be there, made by compress --shard")
    if "calibration" in kept:
        raise OutputError(f"{partial} must be made by compress --shard, got a calibration")
    try:
        plan, whole = make_plan(model, Settings(**kept["settings"])), frozenset(kept["whole"])
    except (KeyError, TypeError) as error:
        raise OutputError(f"{partial} must be of this version of pvq_ref, got {error}") from None
    check_output(model, plan, target, force)
    state = kept | state_of(model, plan, Method(whole))
    with working(target, state, Run(Limits(), force, resume=True)) as work:
        units = all_units(plan, whole)
        there = sum(work.get(unit.name) is not None for unit in units)
        if there < len(units):
            raise OutputError(
                f"{partial} must have all {len(units)} pieces, got {there}: a shard isn't finished"
            )
        return complete(Assembly(model, plan, work, whole, None), target, state["source"], force)
