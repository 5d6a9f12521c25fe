"""A folder of finished tensors, so that a calibration that was interrupted can go on.

OUT.calibration stands beside the output until that is complete. Each tensor is a file of its own
with its losses beside it, written whole or not at all; `state.json` says what they were made from
and how.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvq_ref.checkpoint import load, save_tensor
from pvq_ref.compensated import Losses
from pvq_ref.errors import FormatError, OutputError
from pvq_ref.model import Model, write_json
from pvq_ref.output import whole
from pvq_ref.tensor import PVQTensor

STATE = "state.json"


def source_state(model: Model) -> list[list[object]]:
    """Return what a source is known by: its weight files' names, sizes and times of change."""
    stats = [(name, model.file(name).stat()) for name in model.headers]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


class WorkFolder:
    """Finished tensors of one calibration.

    Parameters: target, the output; state, all that the tensors depend on, as JSON; resume, whether
    to go on with what is there, which must have the same state, or to begin anew. Raises
    OutputError.
    """

    def __init__(self, target: Path, state: Mapping[str, Any], resume: bool) -> None:
        self.path = target.with_name(target.name + ".calibration")
        self.discarded = self.path.exists() and not resume
        try:
            if self.discarded:
                shutil.rmtree(self.path)
            if (self.path / STATE).exists():
                self._check(state)
            else:
                self.path.mkdir(exist_ok=True)
                with whole(self.path / STATE, force=True, folder=False) as partial:
                    write_json(partial, state)
        except OSError as error:
            raise OutputError(f"{self.path} can't be written: {error}") from error

    def _check(self, state: Mapping[str, Any]) -> None:
        try:
            kept = json.loads((self.path / STATE).read_bytes())
        except ValueError:
            kept = None
        now = json.loads(json.dumps(state))
        if kept != now:
            changed = sorted(
                key
                for key in now.keys() | (kept or {}).keys()
                if kept is None or kept.get(key) != now.get(key)
            )
            raise OutputError(
                f"{self.path} must be of the same model and settings to go on with it, but differs "
                f"in {', '.join(changed)}; without resume it is begun anew"
            )

    def _files(self, name: str) -> tuple[Path, Path]:
        stem = name.replace("%", "%25").replace("/", "%2F")
        return self.path / f"{stem}.safetensors", self.path / f"{stem}.json"

    def get(self, name: str) -> tuple[PVQTensor, Losses] | None:
        """Return a finished tensor, or None; one that is broken is removed and so made anew."""
        tensor_file, losses_file = self._files(name)
        if not tensor_file.exists():
            return None
        try:
            tensor = load(tensor_file)[name]
            losses = Losses(**json.loads(losses_file.read_bytes()))
        except (FormatError, OSError, ValueError, TypeError):
            tensor_file.unlink()
            return None
        assert isinstance(tensor, PVQTensor)
        return tensor, losses

    def put(self, name: str, tensor: PVQTensor, losses: Losses) -> None:
        """Keep a finished tensor; it counts as finished once its own file is there."""
        tensor_file, losses_file = self._files(name)
        with whole(losses_file, force=True, folder=False) as partial:
            write_json(partial, {"without": losses.without, "coded": losses.coded})
        save_tensor(tensor_file, name, tensor)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
