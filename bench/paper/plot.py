"""The table as bars, in SVG, without a library."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

WIDTH, BAR, LEFT, RIGHT = 720, 26, 170, 110


def svg(report: dict[str, Any]) -> str:
    """Images per second of each row, on a logarithmic scale."""
    parts: list[str] = []
    y = 30
    for task, title in (("cifar", "ResNet"), ("mri", "2-D U-Net")):
        rows = report["tables"][task]
        parts.append(_text(10, y, f"{title} on {report['data'][task]}, images per second", "bold"))
        y += 14
        most = max(row["images_per_second"] for row in rows.values())
        least = min(row["images_per_second"] for row in rows.values()) / 4
        for name, row in rows.items():
            share = math.log(row["images_per_second"] / least) / math.log(most / least)
            width = share * (WIDTH - LEFT - RIGHT)
            colour = "#2a6f97" if "Perun" in name else "#a9b4c2"
            parts.append(_text(10, y + 17, name))
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 6}" fill="{colour}"/>')
            parts.append(_text(LEFT + width + 6, y + 15, f"{row['images_per_second']:,.0f}"))
            y += BAR
        y += 24
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="sans-serif" font-size="13">\n{body}\n</svg>\n'


def _text(x: float, y: float, words: str, weight: str = "normal") -> str:
    return f'<text x="{x:.0f}" y="{y}" font-weight="{weight}">{escape(words)}</text>'
