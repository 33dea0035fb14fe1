"""What both trainings share: arrays in, batches made ahead on another thread, steps timed. Plain PyTorch.

Folders and parameters come from the environment (PERUNML_IN, PERUNML_OUT, PERUNML_PARAMS: JSON, or a file of it).
"""

import json
import os
import queue
import threading
import time
from pathlib import Path

import numpy as np
import torch

AHEAD = 4


def parameters(defaults):
    """The defaults, with what was given."""
    given = os.environ.get("PERUNML_PARAMS", "{}")
    text = given if given.lstrip().startswith("{") else Path(given).read_text()
    return {**defaults, **json.loads(text)}


def inputs(name):
    """The folder of an input."""
    return Path(os.environ["PERUNML_IN"]) / name


def device(wanted=1):
    """The GPU where there is one and it is wanted; the code falls back by itself."""
    return torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")


def batches(arrays, size, order, where):
    """Batches in this order, the next ones made and sent ahead by a thread. Yields (tensors, seconds that were waited)."""
    ready = queue.Queue(AHEAD)
    pinned = where.type == "cuda"

    def work():
        for start in range(0, len(order) - size + 1, size):
            some = np.sort(order[start : start + size])
            tensors = [torch.from_numpy(np.ascontiguousarray(array[some])) for array in arrays]
            ready.put([tensor.pin_memory() for tensor in tensors] if pinned else tensors)
        ready.put(None)

    threading.Thread(target=work, daemon=True).start()
    while True:
        began = time.perf_counter()
        found = ready.get()
        if found is None:
            return
        tensors = [tensor.to(where, non_blocking=True) for tensor in found]
        yield tensors, time.perf_counter() - began


def train(model, arrays, step, *, epochs, batch_size, seed, where):
    """Train for some epochs. `step(batch, epoch)` gives a loss. What was measured: the first epoch warms up where there are several."""
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
    count = len(arrays[0])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, max(1, epochs * (count // batch_size)))
    seconds, waits, losses, images = [], [], [], 0
    for epoch in range(epochs):
        model.train()
        began, waited, images, total = time.perf_counter(), 0.0, 0, torch.zeros((), device=where)
        for batch, wait in batches(arrays, batch_size, rng.permutation(count), where):
            with torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda"):
                loss = step(batch, epoch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            images += len(batch[0])
            waited += wait
            total += loss.detach() * len(batch[0])
        if where.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        waits.append(waited)
        losses.append(float(total) / max(1, images))
    best = seconds[1:] or seconds
    return {
        "epoch_seconds": sum(best) / len(best),
        "images_per_second": images / (sum(best) / len(best)),
        "input_wait": sum(waits[1:] or waits) / sum(best),
        "loss": losses[-1],
        "gpu": int(where.type == "cuda"),
    }


def write(model, metrics):
    """The model's weights, and what was measured."""
    from safetensors.torch import save_file

    out = Path(os.environ["PERUNML_OUT"])
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()},
        out / "model.safetensors",
    )
    (out / "metrics.json").write_text(json.dumps(metrics))
