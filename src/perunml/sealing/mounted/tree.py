"""The folders and files of an asset, numbered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ROOT = 1
"""The number that the kernel knows the top by."""


@dataclass(slots=True)
class Node:
    """A folder, or a file with its `path` in the asset and `size` in bytes."""

    number: int
    parent: Node | None = None
    path: str = ""
    size: int = 0
    folder: bool = True
    children: dict[str, Node] = field(default_factory=dict)


def grow(files: Mapping[str, int]) -> list[Node]:
    """Nodes by number (0 is nobody's, 1 the top) of files given by path and size; paths as the asset's index checked them."""
    top = Node(ROOT)
    nodes = [Node(0), top]
    for path, size in files.items():
        at = top
        *folders, name = path.split("/")
        for part in folders:
            child = at.children.get(part)
            if child is None:
                child = at.children[part] = Node(len(nodes), at)
                nodes.append(child)
            at = child
        at.children[name] = Node(len(nodes), at, path, size, folder=False)
        nodes.append(at.children[name])
    return nodes
