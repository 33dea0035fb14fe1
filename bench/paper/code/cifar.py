"""A ResNet on CIFAR-10: images.npy (n, 32, 32, 3) bytes, labels.npy; test_images.npy, test_labels.npy. Plain PyTorch."""

import numpy as np
import torch
from loop import batches, device, inputs, parameters, train, write
from torch import nn
from torch.nn import functional

DEFAULTS = {"epochs": 2, "batch_size": 128, "seed": 1, "width": 16, "blocks": 1, "images": 0, "gpu": 1}


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.one = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm_one, self.norm_two = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.short = (
            nn.Identity()
            if before == after and stride == 1
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        )

    def forward(self, x):
        y = torch.relu(self.norm_one(self.one(x)))
        return torch.relu(self.norm_two(self.two(y)) + self.short(x))


def resnet(width, blocks):
    """ResNet of 6 * blocks + 2 layers (He and others 2015, section 4.2), so wide."""
    layers = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    before = width
    for stage in range(3):
        for number in range(blocks):
            after = width << stage
            layers.append(Block(before, after, 2 if stage and not number else 1))
            before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def main():
    p = parameters(DEFAULTS)
    where, folder = device(p["gpu"]), inputs("cifar")
    torch.manual_seed(p["seed"])
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy").astype(np.int64)
    images, labels = (array[: p["images"] or None] for array in (images, labels))
    model = resnet(p["width"], p["blocks"]).to(where, memory_format=torch.channels_last)
    mean = torch.tensor([125.3, 123.0, 113.9], device=where).view(1, 3, 1, 1)
    spread = torch.tensor([63.0, 62.1, 66.7], device=where).view(1, 3, 1, 1)

    def ready(pixels):
        return ((pixels.permute(0, 3, 1, 2).float() - mean) / spread).contiguous(memory_format=torch.channels_last)

    def step(batch, epoch):
        x = ready(batch[0])
        if torch.rand(()) < 0.5:
            x = x.flip(3)
        x = torch.roll(x, tuple(torch.randint(-3, 4, (2,)).tolist()), (2, 3))
        return functional.cross_entropy(model(x), batch[1], label_smoothing=0.1)

    found = train(
        model, [images, labels], step, epochs=p["epochs"], batch_size=p["batch_size"], seed=p["seed"], where=where
    )
    model.eval()
    tests = [np.load(folder / "test_images.npy"), np.load(folder / "test_labels.npy").astype(np.int64)]
    right = count = 0
    with torch.no_grad():
        for (pixels, truth), _ in batches(tests, min(500, len(tests[1])), np.arange(len(tests[1])), where):
            right += int((model(ready(pixels)).argmax(1) == truth).sum())
            count += len(truth)
    write(model, {**found, "score": right / max(1, count)})


if __name__ == "__main__":
    main()
