"""A contact sheet of predictions: one HTML file that holds its pictures and needs no network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Final, TextIO
from urllib.parse import quote

import torch
from torch import Tensor

from trainers.report.pictures import palette, to_pillow

THUMBNAIL_SIDE: Final = 240
"""Longest side of a thumbnail, in pixels."""
THUMBNAIL_BYTES: Final = 16_000
"""Largest JPEG of a thumbnail, so that the page of 500 pictures (1000 thumbnails in base64) has at most 22 MB."""
TINY_SIDE: Final = 120
"""Pictures whose longer side is below this are enlarged with all their pixels to be seen."""
CLASSES_SHOWN: Final = 6
"""Classes of a picture that its legend shows without being opened."""

_TEMPLATE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")


class ContactSheet:
    """The page that `contact_sheet` has begun; each picture is written at once, and none is kept.

    Args:
        file: Where the cards of the pictures go.
        class_names: K names in the order of the class ids.
    """

    def __init__(self, file: TextIO, class_names: Sequence[str]) -> None:
        self.pictures = 0
        self.failures = 0
        self._file = file
        self._class_names = class_names
        self._colors = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette(len(class_names)).tolist()]

    def add(self, name: str, image: Tensor, overlay: Tensor, label: Tensor, *, link: str) -> None:
        """Writes the card of one picture.

        Args:
            name: What the picture is called.
            image: (3,H,W) uint8.
            overlay: (3,H,W) uint8, the image in the colours of its classes.
            label: (H,W) class ids.
            link: Path of the overlay in full size, relative to the page.
        """
        self.pictures += 1
        title = escape(name)
        kind = "pair tiny" if max(image.shape[1:]) < TINY_SIDE else "pair"
        self._file.write(
            f'<article><h2>{title}</h2><p class="size">{image.shape[2]} &times; {image.shape[1]} pixels</p>'
            f'<div class="{kind}"><div><img src="{thumbnail(image)}" alt="Image {title}"></div>'
            # Quoting leaves no colon, so that no file name reads as the scheme of an address.
            f'<a href="{quote(link, errors="surrogateescape")}">'
            f'<img src="{thumbnail(overlay)}" alt="Predicted classes of {title}, open in full size"></a></div>'
            f"{self._legend(label)}</article>\n"
        )

    def add_failure(self, name: str, reason: str) -> None:
        """Writes a card that says why there is no picture."""
        self.failures += 1
        self._file.write(f"<article><h2>{escape(name)}</h2><p>{escape(reason)}</p></article>\n")

    def summary(self) -> str:
        """How many pictures there are, and how many could not be read."""
        pictures = "1 picture" if self.pictures == 1 else f"{self.pictures} pictures"
        return pictures + (f", {self.failures} could not be read" if self.failures else "")

    def _legend(self, label: Tensor) -> str:
        shares = class_shares(label)
        items = [self._item(class_id, share) for class_id, share in shares.items()]
        legend = f"<ul>{''.join(items[:CLASSES_SHOWN])}</ul>"
        if rest := items[CLASSES_SHOWN:]:
            legend += f"<details><summary>{len(rest)} more</summary><ul>{''.join(rest)}</ul></details>"
        return legend

    def _item(self, class_id: int, share: float) -> str:
        name = escape(self._class_names[class_id])
        percent = f"{share:.1%}" if share >= 0.001 else "&lt; 0.1%"
        return (
            f'<li data-name="{name}" data-share="{share:.6f}"><i style="background:{self._colors[class_id]}"></i>'
            f"<span>{name}</span><b>{percent}</b></li>"
        )


@contextmanager
def contact_sheet(path: Path, class_names: Sequence[str]) -> Iterator[ContactSheet]:
    """A contact sheet that is at ``path`` when the block has ended, and never a part of it; memory does not grow.

    A policy in the page lets it load nothing, and run no script but its own, whatever the names in it are.

    Args:
        path: The HTML file; an older one stays until the new one is whole.
        class_names: K names in the order of the class ids.
    """
    script = _TEMPLATE.partition("<script>")[2].partition("</script>")[0]
    digest = b64encode(sha256(script.encode()).digest()).decode("ascii")
    head, foot = _TEMPLATE.replace("SCRIPT_HASH", f"sha256-{digest}").split("<!-- pictures -->\n")
    partial = path.with_name(path.name + ".partial")
    try:
        # File names need not be text; what cannot be written is shown as its code.
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(head)
            sheet = ContactSheet(file, class_names)
            yield sheet
            file.write(foot.replace("SUMMARY", sheet.summary()))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def class_shares(label: Tensor) -> dict[int, float]:
    """Share of the pixels of each class in a label map (H,W), in (0, 1], the largest first."""
    counts = torch.bincount(label.flatten())
    order = counts.argsort(descending=True, stable=True)
    return {class_id: counts[class_id].item() / label.numel() for class_id in order.tolist() if counts[class_id]}


def thumbnail(picture: Tensor) -> str:
    """A picture (3,H,W) uint8 as the address of a small JPEG, which holds the JPEG itself."""
    small = to_pillow(picture)
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    for quality in (80, 60, 40, 20, 5):
        jpeg = BytesIO()
        small.save(jpeg, "JPEG", quality=quality)
        if jpeg.tell() <= THUMBNAIL_BYTES:
            break
    return "data:image/jpeg;base64," + b64encode(jpeg.getvalue()).decode("ascii")
