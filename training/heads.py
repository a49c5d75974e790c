"""A network of nobody's family as the loop trains it: every output that fits is a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from segdeploy.deploy.models.module import LoadedModule
from segdeploy.deploy.system.errors import InputError, UsageError


class HeadedModule(nn.Module):
    """Any module behind the interface of the known networks: ``heads`` gives logits.

    Args:
        module: as it was loaded; its network is trained in place.

    Raises:
        InputError: it ends in probabilities, or in other than one channel.
    """

    def __init__(self, module: LoadedModule) -> None:
        super().__init__()
        if not module.logits:
            raise InputError(
                f"{module.name} ends in probabilities, and losses are of logits; give the network "
                "before its sigmoid"
            )
        if module.output.exclusive or module.output.channels != 1:
            raise UsageError(
                f"{module.name} gives {module.output.channels} channels "
                f"({module.output.activation.value}); training takes one, foreground or not"
            )
        self.module = module.network
        self.returned = module.returned

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to the logits that are deployed, (N, 1, H, W)."""
        found: Tensor = tree_leaves(self.module(inputs))[self.returned]
        return found

    def heads(self, inputs: Tensor) -> list[Tensor]:
        """Logits of every output of the input's size and one channel; each is trained.

        Raises:
            InputError: in training mode it returns none.
        """
        wanted = (len(inputs), 1, *inputs.shape[2:])
        leaves = [each for each in tree_leaves(self.module(inputs)) if isinstance(each, Tensor)]
        found = [each for each in leaves if each.shape == wanted and each.is_floating_point()]
        if not found:
            shapes = ", ".join(str(tuple(each.shape)) for each in leaves)
            raise InputError(
                f"{type(self.module).__name__} returns {shapes} in training mode; expected "
                f"{wanted}: switch its deep supervision off"
            )
        return found

    def plain_weights(self) -> dict[str, Tensor]:
        """The module's own state dict, each tensor on its own, as safetensors stores them."""
        return {
            key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for key, value in self.module.state_dict().items()
        }
