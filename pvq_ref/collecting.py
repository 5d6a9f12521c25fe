"""Collect the Hessians of a model's linear layers from text into a file (spec section 7.6)."""

from collections.abc import Callable, Iterator
from os import PathLike, fspath
from pathlib import Path

from numpy.typing import NDArray

from pvq_ref.blocks import Blocks
from pvq_ref.calibrate import walk
from pvq_ref.calibrated import Text
from pvq_ref.errors import ModelError
from pvq_ref.extra import torch
from pvq_ref.gain import Floats
from pvq_ref.hessian_writer import hessian_writer
from pvq_ref.hessians import Text as Source
from pvq_ref.hessians import layer_of
from pvq_ref.language_model import load_tokenizer
from pvq_ref.model import open_model
from pvq_ref.output import file_hash
from pvq_ref.parallel import thread_count


def collect_hessians(
    src: str | PathLike[str],
    out: str | PathLike[str],
    text: Text,
    *,
    device: str = "cpu",
    batch: int = 8,
    threads: int | None = None,
    force: bool = False,
    progress: Callable[[str, int], None] = lambda layer, count: None,
) -> int:
    """Write the Hessians of all linear layers in the blocks of a model; return their number.

    Parameters: src, a model folder; out, the file; text, what goes through the model; device and
    batch as in `Calibration`; progress gets the name of each layer. One block and one Hessian are
    in memory. Raises MissingExtraError, ModelError, DomainError, OutputError.
    """
    model = open_model(fspath(src))
    if not model.is_folder or not model.config:
        raise ModelError("the model must be a folder with a config.json to be calibrated")
    torch.set_num_threads(thread_count(threads))
    windows = text.windows(load_tokenizer(model.path))
    blocks = Blocks(model, device)
    shapes = {entry.name: entry.shape for _, entry in model.entries()}
    every = blocks.weights()
    cols = {layer_of(name): shapes[name][-1] for name in sorted(every)}
    source = Source(file_hash(text.path), text.window, text.seed)
    count = 0
    with hessian_writer(Path(fspath(out)), cols, source, force=force) as writer:

        def keep(names: list[str], targets: list[Floats], hessian: Floats) -> Iterator[NDArray]:  # type: ignore[type-arg]
            nonlocal count
            writer.write([layer_of(name) for name in names], hessian, int(windows.size))
            for name, weights in zip(names, targets, strict=True):
                progress(name, 1)
                count += 1
                yield weights

        stream = blocks.enter(windows, batch)
        walk(blocks, stream, every, keep, damping=0.0, share=0.0, one_pass=True)
    return count
