"""The units of a compression over a dask.distributed cluster (extra `dask`).

Workers write pieces into OUT.partial, which they must see, as shards do; tasks and answers are
small. Nothing depends on the cluster being well: dask starts the tasks of lost workers again, and
what is missing in the end is made by the process that asked.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pvq_ref.compensated import Feedback
from pvq_ref.errors import MissingExtraError, OutputError
from pvq_ref.hessian_encoding import with_hessians
from pvq_ref.hessians import Hessians
from pvq_ref.memory import Limits
from pvq_ref.model import Model, open_model
from pvq_ref.parallel import thread_count
from pvq_ref.plan import Plan, Settings, make_plan
from pvq_ref.running import settings_json, state_of
from pvq_ref.units import Method, Progress, Unit, all_units, code_units
from pvq_ref.workfolder import Say, WorkFolder, read_state

LOCAL = "local"  # instead of an address: a cluster of processes on this machine


@dataclass(frozen=True)
class Job:
    """What a worker is told: paths, settings as JSON, and bytes of memory for it."""

    source: str
    target: str
    settings: str
    memory: int
    hessians: str | None = None
    feedback: Feedback | None = None

    @staticmethod
    def of(
        model: Model, plan: Plan, target: Path, memory: int,
        hessians: str | None, feedback: Feedback,
    ) -> "Job":  # fmt: skip
        """Return the job of a plan; hessians is a file of spec section 7.6, or None."""
        settings = json.dumps(settings_json(plan.settings))
        file = None if hessians is None else str(Path(hessians).resolve())
        return Job(str(model.path.resolve()), str(target), settings, memory, file, feedback)

    def method(self, plan: Plan) -> Method:
        """Return how tensors are coded."""
        if self.hessians is None or self.feedback is None:
            return Method()
        return with_hessians(plan, Hessians(self.hessians), self.feedback, 1)


@dataclass(frozen=True)
class _Prepared:
    model: Model
    plan: Plan
    method: Method
    work: WorkFolder
    units: dict[str, Unit]


@lru_cache(2)
def _prepared(job: Job, state: str) -> _Prepared:
    """Return what a worker needs for all pieces of a job, made once."""
    model, target = open_model(job.source), Path(job.target)
    if json.dumps(read_state(target), sort_keys=True) != state:
        raise OutputError(f"{target} must be the output of this job, seen by all workers")
    plan = make_plan(model, Settings(**json.loads(job.settings)))
    method = job.method(plan)
    work = WorkFolder(target, state_of(model, plan, method), shared=True)
    units = {unit.name: unit for unit in all_units(plan, method.whole)}
    return _Prepared(model, plan, method, work, units)


def code_unit(job: Job, state: str, name: str) -> None:
    """Make one piece, on a worker. Raises what `code_units` raises."""
    p = _prepared(job, state)
    limits = Limits(1, job.memory)
    code_units(p.model, [p.units[name]], p.method, p.work, limits, lambda *_: None)


@contextmanager
def _client(address: str, threads: int | None) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise MissingExtraError("--dask", error, "dask and distributed", "dask") from None
    with ExitStack() as stack:
        try:
            cluster: Any = address
            if address == LOCAL:
                cluster = stack.enter_context(
                    LocalCluster(
                        n_workers=thread_count(threads),
                        threads_per_worker=1,
                        dashboard_address=None,
                    )
                )
            client = stack.enter_context(Client(cluster, timeout="30s"))
        except (OSError, ValueError) as error:
            raise OutputError(
                f"the cluster must be local or the address of a scheduler, got {address!r}: {error}"
            ) from error
        yield client


def spread(
    address: str,
    job: Job,
    units: list[Unit],
    work: WorkFolder,
    limits: Limits,
    progress: Progress,
    say: Say,
) -> list[Unit]:
    """Let a cluster make pieces, large ones first; return the units that it didn't make.

    Raises MissingExtraError, OutputError if there is no cluster at that address.
    """
    state = json.dumps(read_state(Path(job.target)), sort_keys=True)
    missing = []
    for unit in units:
        if work.get(unit.name) is None:
            missing.append(unit)
        else:
            progress(unit.tensor.entry.name, unit.weights)
    if not missing:
        return []
    with _client(address, limits.threads) as client:
        from distributed import as_completed

        missing.sort(key=lambda unit: (-unit.weights, unit.name))
        asked = {
            client.submit(code_unit, job, state, unit.name, pure=False, retries=3): unit
            for unit in missing
        }
        errors = []
        for future in as_completed(asked):
            unit, error = asked[future], future.exception()
            if error is None and work.get(unit.name) is not None:
                progress(unit.tensor.entry.name, unit.weights)
            else:
                errors.append(error)
    left = [unit for unit in units if work.get(unit.name) is None]
    if left:
        say(f"the cluster left {len(left)} pieces, made here now; the first error: {errors[0]!r}")
    return left
