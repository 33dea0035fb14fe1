"""Sealed data in PyTorch: ``from perunml.torch import SealedDataset, SealedIterable, SealedLoader``.

On an owner's machine `where` is ``perunml.fs.sealed("scans", …)``; in a job it is ``perunml.fs.sealed("scans")`` too, and reads the job's plain input of that name.
"""

from perunml.sealing.views.pytorch import SealedDataset, SealedIterable, SealedLoader

__all__ = ["SealedDataset", "SealedIterable", "SealedLoader"]
