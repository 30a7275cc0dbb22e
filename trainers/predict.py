"""Segments images: ``python -m trainers.predict --checkpoint FILE IMAGE|FOLDER ... --output DIR``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser
from tqdm import tqdm

from trainers.assemble import create_forward, restore_model
from trainers.checkpoints import load_checkpoint
from trainers.data.reading import IMAGE_SUFFIXES, read_image
from trainers.errors import UserError, main_guard, user_errors
from trainers.forward import Forward
from trainers.pictures import overlay, save_index_png, save_picture, with_legend


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The images among ``paths``, and those that lie in the folders among them.

    Raises:
        UserError: A folder holds no image.
    """
    images: list[Path] = []
    for path in paths:
        if not path.is_dir():
            images.append(path)
            continue
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise UserError(f"The folder {path} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
        images += found
    return images


def output_names(images: Sequence[Path], folder: Path) -> list[str]:
    """A name for each image, so that NAME.png and NAME_overlay.png overwrite no other output and no image."""
    taken = {image.resolve() for image in images}
    names = []
    for image in images:
        name, number = image.stem, 1
        while taken & (files := {(folder / f"{name}{end}.png").resolve() for end in ("", "_overlay")}):
            number += 1
            name = f"{image.stem}-{number}"
        taken |= files
        names.append(name)
    return names


def predict(forward: Forward, images: Sequence[Path], folder: Path, class_names: Sequence[str]) -> int:
    """Writes an index PNG and an overlay with a legend for each image; gives how many could not be read."""
    failures = 0
    for path, name in zip(tqdm(images, desc="predict"), output_names(images, folder), strict=True):
        try:
            image = read_image(path)
        except (OSError, ValueError) as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failures += 1
            continue
        label = forward.predict_labels(image[None] / 255)[0]
        save_index_png(label, folder / f"{name}.png")
        save_picture(with_legend(overlay(image, label), label, class_names), folder / f"{name}_overlay.png")
    return failures


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line); exits with 1 where an image could not be read."""
    parser = ArgumentParser(
        prog="python -m trainers.predict",
        description="Writes NAME.png (class ids) and NAME_overlay.png (with a legend) for each image.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("images", type=Path, nargs="+", help="Images, and folders of images.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="A best.pt or last.pt.")
    parser.add_argument("--output", type=Path, required=True, help="Folder that the pictures are written into.")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, ... or auto.")
    options = parser.parse_args(sys.argv[1:] if arguments is None else list(arguments))

    checkpoint = load_checkpoint(options.checkpoint)
    with user_errors():
        config = replace(checkpoint.config, train=replace(checkpoint.config.train, device=options.device))
        forward = create_forward(restore_model(checkpoint), config)
        images = find_images(options.images)
        options.output.mkdir(parents=True, exist_ok=True)
    failures = predict(forward, images, options.output, checkpoint.class_names)
    print(f"{len(images) - failures} of {len(images)} images: {options.output}")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
