"""The blocks of a causal language model, loaded and run one at a time.

A model of transformers is built without its weights. What stands around the blocks (embedding,
last norm) gets them at once, a block when its turn comes, so that memory holds one block and the
hidden states of all tokens between two blocks. Weights are binary32, straight from the safetensors
files.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.container import Reader
from pvq_ref.errors import ModelError
from pvq_ref.extra import accelerate, torch, transformers
from pvq_ref.language_model import torch_device
from pvq_ref.model import Model


class _Stop(Exception):
    """Ends a forward pass once all that is wanted of it has been seen."""


class Blocks:
    """A causal language model whose blocks are run one at a time.

    Parameters: model, a folder; device, a name that torch knows. Raises ModelError where
    transformers can't build the model, or it has no list of blocks; DomainError for the device.
    """

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self._source = model
        self._files = {entry.name: file for file, entry in model.entries()}
        self.device = torch_device(torch, device)
        auto = transformers.AutoModelForCausalLM
        try:
            config = transformers.AutoConfig.from_pretrained(model.path, local_files_only=True)
            with accelerate.init_empty_weights(include_buffers=False):
                self._model = auto.from_config(config, dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{model.path} must hold a causal language model: {error}") from None
        self._model.eval().requires_grad_(False)
        self.prefix, self._blocks = self._find()
        self._fill_around()

    def __len__(self) -> int:
        return len(self._blocks)

    def _find(self) -> tuple[str, Any]:
        """Return the list of blocks: the longest list of modules, the first of several."""
        lists = [
            (name, module)
            for name, module in self._model.named_modules()
            if isinstance(module, torch.nn.ModuleList) and len(module)
        ]
        if not lists:
            raise ModelError("the model must have a list of blocks, got none")
        return max(lists, key=lambda one: len(one[1]))

    def _fill_around(self) -> None:
        """Load what stands around the blocks, the head aside, and move all buffers."""
        base = self._model.base_model
        name_of_base = next(name for name, m in self._model.named_modules() if m is base)
        for name, _ in list(base.named_parameters(prefix=name_of_base)):
            if not name.startswith(f"{self.prefix}."):
                self._fill(name)
        for module in base.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(self.device)

    def _read(self, name: str) -> Any:
        """Return a tensor of the source by the name of its parameter."""
        for known in (name, name.removeprefix(f"{self._model.base_model_prefix}.")):
            if known in self._files:
                with Reader(self._source.file(self._files[known])) as reader:
                    values = reader.read(known).astype(np.float32)
                return torch.from_numpy(values).to(self.device)
        raise ModelError(f"the model must have a tensor for parameter {name!r}, got none")

    def _fill(self, name: str) -> None:
        owner, _, last = name.rpartition(".")
        value = torch.nn.Parameter(self._read(name), requires_grad=False)
        self._model.get_submodule(owner)._parameters[last] = value

    @contextmanager
    def block(self, number: int) -> Iterator[Any]:
        """Give a block with its weights, and drop them at the end."""
        block = self._blocks[number]
        for name, _ in list(block.named_parameters(prefix=f"{self.prefix}.{number}")):
            self._fill(name)
        try:
            yield block
        finally:
            for module in block.modules():
                for name, value in module._parameters.items():
                    if value is not None:
                        module._parameters[name] = torch.nn.Parameter(value.to("meta"), False)

    def name_of(self, number: int, layer: str) -> str:
        """Return the name in the files of the weights of a linear layer of a block."""
        name = f"{self.prefix}.{number}.{layer}.weight"
        bare = name.removeprefix(f"{self._model.base_model_prefix}.")
        return bare if name not in self._files and bare in self._files else name

    def linear_layers(self, number: int) -> list[str]:
        """Return the names of the linear layers inside a block."""
        modules = self._blocks[number].named_modules()
        return [name for name, module in modules if isinstance(module, torch.nn.Linear)]

    def weights(self) -> set[str]:
        """Return the names in the files of the weights of all linear layers of blocks."""
        return {
            self.name_of(number, layer)
            for number in range(len(self))
            for layer in self.linear_layers(number)
        }

    def enter(self, windows: NDArray[np.int64], batch: int) -> "Stream":
        """Return the inputs of the first block for windows (count, window) of tokens.

        Every block is replaced by one that notes its other arguments and hands its input on.
        """
        stream = Stream([], [])
        noted: list[dict[str, Any]] = []

        def note(hidden: Any, *args: Any, **kwargs: Any) -> Any:
            if args:
                raise ModelError("the blocks must take all but their input by name")
            if not noted:
                stream.states.append(hidden)
            noted.append(kwargs)
            return hidden

        for block in self._blocks:
            block.forward = note
        try:
            for start in range(0, len(windows), batch):
                noted.clear()
                ids = torch.from_numpy(windows[start : start + batch]).to(self.device)
                with torch.inference_mode():
                    self._model.base_model(input_ids=ids, use_cache=False)
                stream.arguments.append(list(noted))
        finally:
            for block in self._blocks:
                del block.forward
        return stream


@dataclass
class Stream:
    """The hidden states before a block, batch by batch, and each block's other arguments."""

    states: list[Any]
    arguments: list[list[dict[str, Any]]]

    def copy(self) -> "Stream":
        """Return a stream that can go another way."""
        return Stream(list(self.states), self.arguments)

    def run(self, block: Any, number: int, batch: int) -> Any:
        """Return what a block makes of one batch."""
        with torch.inference_mode():
            out = block(self.states[batch], **self.arguments[batch][number])
        return out[0] if isinstance(out, tuple) else out

    def advance(self, block: Any, number: int) -> None:
        """Go through a block."""
        for batch in range(len(self.states)):
            self.states[batch] = self.run(block, number, batch)

    def inputs(self, block: Any, number: int, layer: str, batch: int) -> Any:
        """Return the input (tokens, cols) of a layer for one batch, running no further."""
        seen: list[Any] = []

        def stop(_: str, x: Any) -> None:
            seen.append(_rows(x))
            raise _Stop

        with watched(block, [layer], stop), suppress(_Stop):
            self.run(block, number, batch)
        return seen[0]

    def stages(self, block: Any, number: int, layers: list[str]) -> list[list[str]]:
        """Group layers by their input, in the order in which they run.

        Layers that the first batch doesn't reach are left out.
        """
        inputs: list[tuple[Any, list[str]]] = []

        def see(layer: str, x: Any) -> None:
            for other, names in inputs:
                if other is x:
                    names.append(layer)
                    return
            inputs.append((x, [layer]))

        with watched(block, layers, see):
            self.run(block, number, 0)
        return [names for _, names in inputs]

    def advance_keeping(self, block: Any, number: int, layers: list[str]) -> dict[str, list[Any]]:
        """Go through a block; return the inputs (tokens, cols) of some layers, batch by batch."""
        seen: dict[str, list[Any]] = {layer: [] for layer in layers}
        with watched(block, layers, lambda layer, x: seen[layer].append(_rows(x))):
            self.advance(block, number)
        return seen


def _rows(x: Any) -> Any:
    return x.reshape(-1, x.shape[-1])


@contextmanager
def watched(module: Any, layers: list[str], see: Callable[[str, Any], None]) -> Iterator[None]:
    """Call see(layer, input) before a layer of the module runs."""

    def hook(layer: str) -> Callable[[Any, tuple[Any, ...]], None]:
        return lambda _, args: see(layer, args[0])

    handles = [
        module.get_submodule(layer).register_forward_pre_hook(hook(layer)) for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
