"""Perun: confidential machine learning between parties who do not trust each other.

``from perunml import Client`` gives the SDK; nothing is imported before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perunml.client.client import Client
    from perunml.wire.errors import PerunError

__all__ = ["Client", "PerunError", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Client":
        from perunml.client.client import Client

        return Client
    if name == "PerunError":
        from perunml.wire.errors import PerunError

        return PerunError
    raise AttributeError(f"module 'perunml' has no attribute {name!r}")
