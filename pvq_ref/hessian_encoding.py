"""Compress with a file of Hessians (spec section 7.6): no model code, no text, no torch."""

from os import PathLike, fspath

from threadpoolctl import threadpool_limits

from pvq_ref.checkpoint import (
    Encoder,
    Progress,
    Result,
    RowsDone,
    check_output,
    plain_encoder,
    run,
)
from pvq_ref.compensated import Feedback, Losses, encode
from pvq_ref.curvature import Curvature, layer_curvature
from pvq_ref.encoding import RowReader
from pvq_ref.errors import ModelError
from pvq_ref.hessians import Hessians, layer_of
from pvq_ref.model import open_model
from pvq_ref.output import target_path
from pvq_ref.plan import Plan, Settings, TensorPlan, make_plan
from pvq_ref.tensor import PVQTensor


class HessianEncoder:
    """Codes a tensor with the Hessian of its layer where the file has one, else without.

    losses fills with what each layer lost. Tensors that share a Hessian are best coded one after
    the other: the last one that was factored is kept. Raises ModelError if the file has none of the
    plan's layers.
    """

    def __init__(self, plan: Plan, hessians: Hessians, how: Feedback, threads: int | None) -> None:
        names = [t.entry.name for t in plan.compressed]
        if not any(layer_of(name) in hessians for name in names):
            raise ModelError(
                f"{hessians.path.name} must have Hessians of the model's layers, got none, such as "
                f"{layer_of(names[0])!r}"
            )
        self._plain: Encoder = plain_encoder(plan, threads)
        self._hessians, self._how, self._threads = hessians, how, threads
        self._design = plan.settings.design
        self._last: tuple[object, Curvature] | None = None
        self.losses: dict[str, Losses] = {}

    def __call__(self, t: TensorPlan, read: RowReader, rows_done: RowsDone) -> PVQTensor:
        """Code one tensor."""
        name, coding = t.entry.name, t.coding
        if coding is None or layer_of(name) not in self._hessians:
            return self._plain(t, read, rows_done)
        key = self._hessians.home(layer_of(name)), coding.rotation
        if self._last is None or self._last[0] != key:
            cols = t.entry.shape[-1]
            hessian = self._hessians.read(layer_of(name), cols)
            with threadpool_limits(1):
                self._last = (
                    key,
                    layer_curvature(name, hessian, cols, coding.rotation, self._how.damping),
                )
        tensor, self.losses[name] = encode(
            read,
            t.entry.shape,
            t.entry.dtype,
            coding,
            self._design,
            self._last[1],
            self._how,
            self._threads,
            rows_done,
        )
        return tensor


def compress_with_hessians(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    hessians: str | PathLike[str],
    settings: Settings | None = None,
    how: Feedback | None = None,
    *,
    threads: int | None = None,
    force: bool = False,
    progress: Progress = lambda name, weights: None,
) -> tuple[Result, dict[str, Losses]]:
    """Compress a model, with feedback where a file has the Hessian of a layer.

    Parameters: src and dst as in `compress`; hessians, a file of spec section 7.6; settings, see
    `Settings`; how, see `Feedback`; the rest as in `compress`. Returns the result and what each
    layer lost. The same bytes for any number of threads. Raises what `compress` raises, and
    FormatError and its children for a broken file of Hessians.
    """
    model = open_model(fspath(src))
    plan = make_plan(model, settings or Settings())
    target = target_path(dst)
    check_output(model, plan, target, force)
    encoder = HessianEncoder(plan, Hessians(hessians), how or Feedback(), threads)
    return run(model, plan, target, encoder, force, progress), encoder.losses
