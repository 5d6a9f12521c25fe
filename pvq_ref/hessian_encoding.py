"""Compress with a file of Hessians (spec section 7.6): no model code, no text, no torch."""

from dataclasses import asdict
from os import PathLike, fspath

from pvq_ref.compensated import Feedback, Losses, encode
from pvq_ref.curvature import Curvature, layer_curvature
from pvq_ref.encoding import RowReader
from pvq_ref.errors import ModelError
from pvq_ref.hessians import Hessians, layer_of
from pvq_ref.memory import DEFAULT_MEMORY, Limits
from pvq_ref.model import open_model
from pvq_ref.output import target_path
from pvq_ref.parallel import one_thread_each
from pvq_ref.plan import Plan, Settings, TensorPlan, make_plan
from pvq_ref.running import Result, Run, check_output, run
from pvq_ref.tensor import PVQTensor
from pvq_ref.units import Method, Note, Progress, RowsDone


class _Coder:
    """Codes tensors with the Hessians of their layers.

    Tensors that share a Hessian are best coded one after the other: the last one that was factored
    is kept.
    """

    def __init__(self, plan: Plan, hessians: Hessians, how: Feedback, threads: int | None) -> None:
        self._hessians, self._how, self._threads = hessians, how, threads
        self._design = plan.settings.design
        self._last: tuple[object, Curvature] | None = None

    def __call__(
        self, t: TensorPlan, read: RowReader, rows_done: RowsDone
    ) -> tuple[PVQTensor, Note]:
        """Code one tensor; note its losses."""
        name, coding = t.entry.name, t.coding
        assert coding is not None
        key = self._hessians.home(layer_of(name)), coding.rotation
        last = self._last  # once: other threads may code other tensors
        if last is None or last[0] != key:
            cols = t.entry.shape[-1]
            hessian = self._hessians.read(layer_of(name), cols)
            with one_thread_each():
                last = (
                    key,
                    layer_curvature(name, hessian, cols, coding.rotation, self._how.damping),
                )
            self._last = last
        tensor, losses = encode(
            read,
            t.entry.shape,
            t.entry.dtype,
            coding,
            self._design,
            last[1],
            self._how,
            self._threads,
            rows_done,
        )
        return tensor, asdict(losses)


def with_hessians(plan: Plan, hessians: Hessians, how: Feedback, threads: int | None) -> Method:
    """Return how tensors are coded where a file has the Hessians of some layers.

    Raises ModelError if it has none of the plan's layers.
    """
    names = [t.entry.name for t in plan.compressed]
    whole = frozenset(name for name in names if layer_of(name) in hessians)
    if not whole:
        raise ModelError(
            f"{hessians.path.name} must have Hessians of the model's layers, got none, such as "
            f"{layer_of(names[0])!r}"
        )
    file = hessians.path.stat()
    state = {
        "hessians": [hessians.path.name, file.st_size, file.st_mtime_ns],
        "feedback": asdict(how),
    }
    return Method(whole, _Coder(plan, hessians, how, threads), state)


def losses_of(result: Result) -> dict[str, Losses]:
    """Return what each layer lost, of those that were coded with a Hessian."""
    return {name: Losses(**note) for name, note in result.notes.items()}


def compress_with_hessians(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    hessians: str | PathLike[str],
    settings: Settings | None = None,
    how: Feedback | None = None,
    *,
    threads: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
    resume: bool = False,
    progress: Progress = lambda name, weights: None,
) -> tuple[Result, dict[str, Losses]]:
    """Compress a model, with feedback where a file has the Hessian of a layer.

    Parameters: src and dst as in `compress`; hessians, a file of spec section 7.6; settings, see
    `Settings`; how, see `Feedback`; the rest as in `compress`, but a tensor that is coded with a
    Hessian is in memory as a whole, and with it the Hessian and its factors. Returns the result and
    what each layer lost. The same bytes for any number of threads. Raises what `compress` raises,
    and FormatError and its children for a broken file of Hessians.
    """
    model = open_model(fspath(src))
    plan = make_plan(model, settings or Settings())
    target = target_path(dst)
    check_output(model, plan, target, force)
    method = with_hessians(plan, Hessians(hessians), how or Feedback(), threads)
    carried = Run(Limits(threads, max_memory), force, resume, progress)
    result = run(model, plan, target, method, carried)
    return result, losses_of(result)
