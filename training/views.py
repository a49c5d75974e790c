"""Random views of an image set, each made by its seed, pass and image alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from segdeploy.deploy.data.image_set import Sample, SegmentationSet
from segdeploy.deploy.data.preprocess import MASK_THRESHOLD, Preprocess
from segdeploy.deploy.system.interruption import held_back, left_to_parent
from segdeploy.deploy.system.progress import ItemProgress
from segdeploy.training.augment import jitter_colour, paste_window, random_grid, sample
from segdeploy.training.recipe import Recipe

CACHE_BYTES = 2 * 2**30
"""Decoded images are kept up to this much; the rest is decoded again whenever it is drawn."""

PATCH_TRIES = 20
"""Places tried for a patch whose centre lies inside the field of view."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Native-resolution tensors of one sample: uint8 (3, H, W) RGB, and (1, H, W) of 0..255.

    ``field`` is ``None`` where the sample has no field of view.
    """

    image: Tensor
    mask: Tensor
    field: Tensor | None

    @property
    def nbytes(self) -> int:
        """Memory of all tensors."""
        return sum(t.nbytes for t in (self.image, self.mask, self.field) if t is not None)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs float32 (N, 3, h, w), truth and field (N, 1, h, w) of 0 and 1."""

    inputs: Tensor
    truth: Tensor
    field: Tensor | None


class Views(Dataset[tuple[Tensor, Tensor, Tensor | None]]):
    """A view for each (pass, image) pair.

    Views depend on seed, pass and image alone: not on the batch, the process or the worker.

    Raises:
        InputError: an image or mask cannot be read.
    """

    def __init__(
        self,
        samples: SegmentationSet,
        recipe: Recipe,
        preprocess: Preprocess,
        *,
        progress: ItemProgress[Sample] = iter,
    ) -> None:
        self.samples = tuple(samples)
        self.recipe = recipe
        self.preprocess = preprocess
        self.has_fields = any(s.field_path is not None for s in self.samples)
        self.cache: dict[int, Pixels] = {}
        room = CACHE_BYTES
        for index, each in enumerate(progress(self.samples)):
            pixels = _read(each)
            room -= pixels.nbytes
            if room < 0:
                break
            self.cache[index] = pixels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor | None]:
        """The view of one image in one pass: inputs (3, h, w), truth and field (1, h, w)."""
        turn, index = place
        seed = (self.recipe.seed * 100_003 + turn) * 1_000_003 + index
        generator = Generator().manual_seed(seed % 2**63)
        view = self._cut(index, generator)
        size = (view[0].shape[1], view[0].shape[2])
        window = paste_window(size, generator, self.recipe.augmentation)
        if window is not None:
            other = self._cut(int(torch.randint(len(self), (1,), generator=generator)), generator)
            for whole, pasted in zip(view, other, strict=True):
                whole[:, window[0], window[1]] = pasted[:, window[0], window[1]]
        colours, truth, *fields = view
        channels_last = colours.round_().byte().permute(1, 2, 0).numpy()
        inputs = torch.from_numpy(self.preprocess.normalise(channels_last))
        return inputs, truth, fields[0] if fields else None

    def _cut(self, index: int, generator: Generator) -> list[Tensor]:
        """A random view: colours (3, h, w) in 0..255, truth and, if the set has any, field."""
        pixels = self.cache[index] if index in self.cache else _read(self.samples[index])
        augmentation = self.recipe.augmentation
        grid = random_grid(self.preprocess.size, generator, augmentation)
        if self.recipe.patch is not None:
            grid = _window(grid, self.recipe.patch, pixels.field, generator)
        colours = jitter_colour(sample(pixels.image, grid), generator, augmentation)
        view = [colours, (sample(pixels.mask, grid) >= MASK_THRESHOLD).float()]
        if self.has_fields:
            inside = torch.ones_like(view[1])
            if pixels.field is not None:
                inside = (sample(pixels.field, grid) >= MASK_THRESHOLD).float()
            view.append(inside)
        return view

    def batches(
        self, places: Sequence[Sequence[tuple[int, int]]], *, workers: int
    ) -> Iterator[Batch]:
        """Batches of views, in order.

        Args:
            places: (pass, image) pairs of each batch.
            workers: processes that make views; 0 makes them in this one.
        """
        loader = DataLoader(
            self,
            batch_sampler=places,  # type: ignore[arg-type]  # the stubs want indices to be numbers
            num_workers=workers,
            collate_fn=_stacked,
            worker_init_fn=left_to_parent if workers else None,
        )
        with held_back() if workers else nullcontext():
            begun = iter(loader)
        yield from begun


def pass_order(count: int, *, seed: int, turn: int, batch: int) -> Iterator[list[int]]:
    """Every image once, in an order made by seed and pass, in batches; the last may be short."""
    generator = Generator().manual_seed(seed * 100_003 + turn)
    for indices in torch.randperm(count, generator=generator).split(batch):
        yield indices.tolist()


def _read(each: Sample) -> Pixels:
    field = None
    if each.field_path is not None:
        field = torch.from_numpy(each.field()).byte()[None] * 255
    return Pixels(
        image=torch.from_numpy(each.image().transpose(2, 0, 1).copy()),
        mask=torch.from_numpy(each.mask().copy())[None],
        field=field,
    )


def _window(grid: Tensor, side: int, field: Tensor | None, generator: Generator) -> Tensor:
    """A square part of a sampling grid, at a random place whose centre the field contains."""
    height, width = grid.shape[1] - side + 1, grid.shape[2] - side + 1
    for _ in range(PATCH_TRIES):
        top = int(torch.randint(height, (1,), generator=generator))
        left = int(torch.randint(width, (1,), generator=generator))
        part = grid[:, top : top + side, left : left + side]
        centre = part[:, side // 2 : side // 2 + 1, side // 2 : side // 2 + 1]
        if field is None or float(sample(field, centre)) >= MASK_THRESHOLD:
            break
    return part


def _stacked(views: list[tuple[Tensor, Tensor, Tensor | None]]) -> Batch:
    fields = [field for _, _, field in views if field is not None]
    inputs = torch.stack([view[0] for view in views])
    return Batch(
        inputs=inputs.contiguous(memory_format=torch.channels_last),
        truth=torch.stack([view[1] for view in views]),
        field=torch.stack(fields) if fields else None,
    )
