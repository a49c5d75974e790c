"""What a training computes, step by step, kept as a dump: from the inputs to the first losses."""

from __future__ import annotations

import copy
import platform
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segdeploy.benchmarks.scores.accuracy import iou_per_image
from segdeploy.deploy import __version__
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY
from segdeploy.deploy.models.checkpoint import Checkpoint
from segdeploy.deploy.models.networks import Network
from segdeploy.deploy.system.errors import UsageError
from segdeploy.training.align.dump import Dump, Step, Tensors
from segdeploy.training.losses import bce_dice


@dataclass(frozen=True, kw_only=True)
class StepsRecipe:
    """What decides a dump beside the checkpoint and the images.

    Attributes:
        steps: optimiser steps of the short training, one batch each.
        batch: images of a step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        seed: which images, in which order.

    Raises:
        UsageError: a count below 1 or a learning rate that is not positive.
    """

    steps: int = 5
    batch: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or not self.learning_rate > 0:
            raise UsageError(f"steps and batch must be 1 or more, learning_rate above 0: {self}")


def checkpoint_dump(
    checkpoint: Checkpoint,
    images: SegmentationSet,
    recipe: StepsRecipe,
    *,
    device: str = "cpu",
    plain_kernels: bool = False,
) -> Dump:
    """Run a checkpoint through every step on real images.

    The images are not augmented, so that nothing random is part of what is compared. The same
    device, versions and number of threads give the same bytes on a CPU.

    Args:
        checkpoint: left as it is.
        images: drawn from by seed, all once before any twice.
        recipe: how.
        device: ``cpu``, or another of PyTorch's such as ``cuda`` (not run on hardware).
        plain_kernels: PyTorch's own CPU kernels, not oneDNN's: another implementation.

    Raises:
        InputError: an image or mask cannot be read.
        UsageError: the device is not there.
    """
    target = _device(device)
    order = _order(len(images), recipe.steps * recipe.batch, seed=recipe.seed)
    used = sorted(set(order))
    where = [used.index(index) for index in order]
    chosen = SegmentationSet(
        root=images.root, split=images.split, samples=tuple(images.samples[i] for i in used)
    )
    height, width = checkpoint.preprocess.size
    shape = (recipe.steps, recipe.batch)
    inputs = chosen.inputs(checkpoint.preprocess)[where].reshape(
        *shape, checkpoint.preprocess.channels, height, width
    )
    truths = chosen.truths(checkpoint.preprocess)[where].reshape(*shape, 1, height, width)
    with _arithmetic(plain_kernels):
        tensors = network_tensors(
            checkpoint.network, inputs, truths.astype(np.float32), recipe, device=target
        )
    return Dump(
        source=str(checkpoint.path),
        tensors=tensors,
        settings=asdict(recipe)
        | {
            "arch": checkpoint.arch.value,
            "recurrence": checkpoint.recurrence,
            "checkpoint_sha256": checkpoint.sha256,
            "preprocess": checkpoint.preprocess.to_json(),
            "images": [images.samples[index].name for index in order],
        },
        environment={
            "implementation": f"PyTorch {torch.__version__}, segdeploy {__version__}",
            "device": str(target),
            "kernels": "plain" if plain_kernels else "default",
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    )


def network_tensors(
    network: Network,
    images: NDArray[np.float32],
    truths: NDArray[np.float32],
    recipe: StepsRecipe,
    *,
    device: torch.device,
) -> Tensors:
    """Every tensor of a dump, in the order they are computed; named in ``training.align.dump``.

    Args:
        network: left as it is; ``heads`` gives its logits.
        images: float32 (steps, N, 3, H, W), normalised.
        truths: float32 (steps, N, 1, H, W), 0 or 1.
        recipe: how to optimise.
        device: where to compute.
    """
    model = copy.deepcopy(network).to(device)
    names = model.head_names()
    batches = [
        (torch.from_numpy(image).to(device), torch.from_numpy(truth).to(device))
        for image, truth in zip(images, truths, strict=True)
    ]
    kept: dict[str, NDArray[Any]] = {"inputs/image": images, "inputs/truth": truths}
    with torch.inference_mode():
        kept |= _forward("eval", names, model.eval().heads(batches[0][0]))
    predicted = kept[f"forward/eval/{names[-1]}"][:, 0] >= _LOGIT
    kept["metric/iou"] = iou_per_image(predicted, truths[0, :, 0] > 0)
    return kept | _trained(model.train(), names, batches, recipe)


_LOGIT = np.log(FOREGROUND_PROBABILITY / (1 - FOREGROUND_PROBABILITY))
"""The logit of the probability from which a pixel is foreground."""


def _trained(
    model: Network, names: list[str], batches: list[tuple[Tensor, Tensor]], recipe: StepsRecipe
) -> dict[str, NDArray[Any]]:
    """Optimise in place; what the first step computes, and the loss of every step."""
    kept: dict[str, NDArray[Any]] = {}
    losses: list[float] = []
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    for image, truth in batches:
        heads = model.heads(image)
        each = [bce_dice(logits, truth) for logits in heads]
        loss = torch.stack(each).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if not losses:
            kept |= _forward("train", names, heads)
            kept |= {f"loss/{n}": _array(part)[None] for n, part in zip(names, each, strict=True)}
            kept["loss/mean"] = _array(loss)[None]
            kept |= _gradients(model)
        optimiser.step()
        if not losses:
            kept |= {
                f"update/{name}": _array(value).copy()
                for name, value in model.state_dict().items()
                if value.is_floating_point()
            }
        losses.append(loss.item())
    return kept | {"training/losses": np.array(losses, np.float64)}


def _forward(mode: str, names: list[str], heads: list[Tensor]) -> dict[str, NDArray[np.float32]]:
    return {
        f"forward/{mode}/{name}": _array(logits) for name, logits in zip(names, heads, strict=True)
    }


def _gradients(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """From the last layer to the first, as they are computed; 0 for what the loss ignores."""
    parameters = reversed(list(model.named_parameters()))
    return {
        f"{Step.BACKWARD.value}/{name}": _array(
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        ).copy()
        for name, parameter in parameters
    }


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().cpu().numpy()
    return array


def _order(available: int, wanted: int, *, seed: int) -> list[int]:
    """Indices of the images, seeded: all of them once before any comes twice."""
    generator = np.random.default_rng(seed)
    rounds = [generator.permutation(available) for _ in range(-(-wanted // available))]
    return [int(index) for index in np.concatenate(rounds)[:wanted]]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was built for CUDA
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name} is not ready in PyTorch here ({reason})") from error
    return device


@contextmanager
def _arithmetic(plain_kernels: bool) -> Iterator[None]:
    """fp32 is fp32, not TF32, and convolutions are not chosen by timing them."""
    with ExitStack() as stack:
        stack.enter_context(
            torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False)
        )
        if plain_kernels:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", UserWarning)  # of a TF32 flag for Intel's GPUs
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield
