"""The blocks of a causal language model, loaded and run one at a time.

A model of transformers is built without its weights. What stands around the blocks (embedding,
last norm) gets them at once, a block when its turn comes, so that memory holds one block and the
hidden states of all tokens between two blocks. Weights are binary32, straight from the safetensors
files.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pvq_ref.container import Reader
from pvq_ref.errors import MissingExtraError, ModelError
from pvq_ref.model import Model

try:
    import torch
    from accelerate import init_empty_weights
    from torch import Tensor, nn
    from transformers import AutoConfig, AutoModelForCausalLM
except ImportError as error:
    raise MissingExtraError("calibration", error) from None


class _Stop(Exception):
    """Ends a forward pass once all that is wanted of it has been seen."""


class Blocks:
    """A causal language model whose blocks are run one at a time."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self._source = model
        self._files = {entry.name: file for file, entry in model.entries()}
        self.device = torch.device(device)
        config = AutoConfig.from_pretrained(model.path, local_files_only=True)
        with init_empty_weights(include_buffers=False):
            self._model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        self._model.eval().requires_grad_(False)
        self.prefix, self._blocks = self._find()
        inner = f"{self.prefix}."
        base = self._model.base_model
        for name, parameter in list(base.named_parameters(prefix=self._base_name())):
            if parameter.is_meta and not name.startswith(inner):
                self._fill(name)
        for _, module in base.named_modules():
            if not any(p.is_meta for p in module.parameters()):
                module.to(self.device)
        for name, buffer in list(base.named_buffers()):
            owner, _, last = name.rpartition(".")
            base.get_submodule(owner)._buffers[last] = buffer.to(self.device)

    def __len__(self) -> int:
        return len(self._blocks)

    def _base_name(self) -> str:
        base = self._model.base_model
        return next(name for name, module in self._model.named_modules() if module is base)

    def _find(self) -> tuple[str, nn.ModuleList]:
        """Return the list of blocks: the longest one with layers that repeat."""
        lists = [
            (len(module), name, module)
            for name, module in self._model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module)
        ]
        if not lists:
            raise ModelError("the model must have a list of blocks, got none")
        longest = max(count for count, _, _ in lists)
        return next((name, module) for count, name, module in lists if count == longest)

    def _read(self, name: str) -> Tensor:
        """Return a tensor of the source by the name of its parameter."""
        for known in (name, name.removeprefix(f"{self._model.base_model_prefix}.")):
            if known in self._files:
                with Reader(self._source.file(self._files[known])) as reader:
                    values = np.asarray(reader.read(known), np.float32)
                return torch.from_numpy(values).to(self.device)
        raise ModelError(f"the model must have a tensor for parameter {name!r}, got none")

    def _fill(self, name: str) -> None:
        owner, _, last = name.rpartition(".")
        value = nn.Parameter(self._read(name), requires_grad=False)
        self._model.get_submodule(owner)._parameters[last] = value

    @contextmanager
    def block(self, number: int) -> Iterator[nn.Module]:
        """Give a block with its weights, and drop them at the end."""
        block = self._blocks[number]
        names = [name for name, _ in block.named_parameters(prefix=f"{self.prefix}.{number}")]
        for name in names:
            self._fill(name)
        try:
            yield block
        finally:
            block.to("meta")

    def name_of(self, number: int, layer: str) -> str:
        """Return the name of the weights of a linear layer of a block."""
        return f"{self.prefix}.{number}.{layer}.weight"

    def linear_layers(self, number: int) -> list[str]:
        """Return the names of the linear layers inside a block."""
        return [
            name
            for name, module in self._blocks[number].named_modules()
            if isinstance(module, nn.Linear)
        ]

    @torch.inference_mode()
    def enter(self, windows: np.ndarray[Any, Any], batch: int) -> "Stream":
        """Return the inputs of the first block for windows (count, window) of tokens.

        Every block is replaced by one that notes its other arguments and hands its input on.
        """
        states: list[Tensor] = []
        arguments: list[list[dict[str, Any]]] = []
        noted: list[dict[str, Any]] = []

        def note(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if args:
                raise ModelError("the blocks must take their arguments by name")
            if not noted:
                states.append(hidden)
            noted.append(kwargs)
            return hidden

        for block in self._blocks:
            block.forward = note
        try:
            for start in range(0, len(windows), batch):
                noted.clear()
                ids = torch.from_numpy(windows[start : start + batch]).to(self.device)
                self._model.base_model(input_ids=ids, use_cache=False)
                arguments.append(list(noted))
        finally:
            for block in self._blocks:
                del block.forward
        return Stream(states, arguments)


@dataclass
class Stream:
    """The hidden states before a block, batch by batch, and each block's other arguments."""

    states: list[Tensor]
    arguments: list[list[dict[str, Any]]]

    def copy(self) -> "Stream":
        """Return a stream that can go another way."""
        return Stream(list(self.states), self.arguments)

    def run(self, block: nn.Module, number: int, batch: int) -> Tensor:
        """Return what a block makes of one batch."""
        out = block(self.states[batch], **self.arguments[batch][number])
        return out[0] if isinstance(out, tuple) else out

    @torch.inference_mode()
    def advance(self, block: nn.Module, number: int) -> None:
        """Go through a block."""
        for batch in range(len(self.states)):
            self.states[batch] = self.run(block, number, batch)

    @torch.inference_mode()
    def inputs(self, block: nn.Module, number: int, layer: str, batch: int) -> Tensor:
        """Return the input (tokens, cols) of a layer for one batch, running no further."""
        seen: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.append(args[0].reshape(-1, args[0].shape[-1]))
            raise _Stop

        handle = block.get_submodule(layer).register_forward_pre_hook(stop)
        try:
            self.run(block, number, batch)
        except _Stop:
            pass
        finally:
            handle.remove()
        return seen[0]

    @torch.inference_mode()
    def advance_watching(
        self, block: nn.Module, number: int, layers: list[str], see: Callable[[str, Tensor], None]
    ) -> None:
        """Go through a block, showing the input (tokens, cols) of some layers, batch by batch."""
        handles = [
            block.get_submodule(layer).register_forward_pre_hook(
                lambda _, args, layer=layer: see(layer, args[0].reshape(-1, args[0].shape[-1]))
            )
            for layer in layers
        ]
        try:
            self.advance(block, number)
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def stages(self, block: nn.Module, number: int, layers: list[str]) -> list[list[str]]:
        """Group layers by their input, in the order in which they run; what doesn't run is left out."""
        inputs: list[tuple[Tensor, list[str]]] = []

        def see(name: str, x: Tensor) -> None:
            for other, names in inputs:
                if other is x:
                    names.append(name)
                    return
            inputs.append((x, [name]))

        handles = [
            block.get_submodule(layer).register_forward_pre_hook(
                lambda _, args, layer=layer: see(layer, args[0])
            )
            for layer in layers
        ]
        try:
            self.run(block, number, 0)
        finally:
            for handle in handles:
                handle.remove()
        return [names for _, names in inputs]
