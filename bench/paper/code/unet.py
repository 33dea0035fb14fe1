"""A 2-D U-Net on brain MRI: images.npy (n, h, w, 3) bytes, masks.npy (n, h, w) of 0 and 1; test_images.npy, test_masks.npy. Plain PyTorch."""

import itertools

import numpy as np
import torch
from loop import batches, device, inputs, parameters, train, write
from torch import nn
from torch.nn import functional

DEFAULTS = {"epochs": 2, "batch_size": 16, "seed": 1, "width": 12, "images": 0, "gpu": 1}


def pair(before, after):
    return nn.Sequential(
        nn.Conv2d(before, after, 3, 1, 1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, 1, 1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Three steps down and up (Ronneberger and others 2015), so wide at the top."""

    def __init__(self, width):
        super().__init__()
        sizes = [width << level for level in range(4)]
        self.down = nn.ModuleList(pair(before, after) for before, after in itertools.pairwise([3, *sizes]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(after, before, 2, 2) for before, after in itertools.pairwise(sizes))
        self.merge = nn.ModuleList(pair(2 * size, size) for size in sizes[:3])
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        kept = []
        for level, part in enumerate(self.down):
            x = part(functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for level in (2, 1, 0):
            x = self.merge[level](torch.cat([kept[level], self.up[level](x)], 1))
        return self.last(x)[:, 0]


def main():
    p = parameters(DEFAULTS)
    where, folder = device(p["gpu"]), inputs("mri")
    torch.manual_seed(p["seed"])
    images, masks = np.load(folder / "images.npy"), np.load(folder / "masks.npy")
    images, masks = (array[: p["images"] or None] for array in (images, masks))
    model = UNet(p["width"]).to(where, memory_format=torch.channels_last)

    def ready(pixels):
        return (pixels.permute(0, 3, 1, 2).float() / 128 - 0.5).contiguous(memory_format=torch.channels_last)

    def step(batch, epoch):
        truth = batch[1].float()
        logits = model(ready(batch[0])).float()
        likely = torch.sigmoid(logits)
        dice = 1 - (2 * (likely * truth).sum() + 1) / (likely.sum() + truth.sum() + 1)
        return functional.binary_cross_entropy_with_logits(logits, truth) + dice

    found = train(
        model, [images, masks], step, epochs=p["epochs"], batch_size=p["batch_size"], seed=p["seed"], where=where
    )
    model.eval()
    tests = [np.load(folder / "test_images.npy"), np.load(folder / "test_masks.npy")]
    both = each = 0.0
    with torch.no_grad():
        for (pixels, truth), _ in batches(tests, min(50, len(tests[1])), np.arange(len(tests[1])), where):
            said = model(ready(pixels)) > 0
            both += float((said & (truth > 0)).sum())
            each += float(said.sum() + (truth > 0).sum())
    write(model, {**found, "score": 2 * both / max(1.0, each)})


if __name__ == "__main__":
    main()
