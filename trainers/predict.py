"""Segments images: ``python -m trainers.predict --checkpoint FILE IMAGE|FOLDER ... --output DIR``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from tqdm import tqdm

from trainers.assemble import create_forward, create_reader, rename, restore_model, set_scoring
from trainers.data.files import find_files
from trainers.data.problems import one_line_each
from trainers.data.reader import ImageReader
from trainers.engine.forward import Forward
from trainers.foundation.errors import UserError, main_guard, user_errors
from trainers.foundation.launch import refuse_several_processes
from trainers.foundation.memory import return_freed_memory
from trainers.foundation.names import listed_names
from trainers.foundation.progress import progress
from trainers.options.help_format import CommandLineHelp
from trainers.options.overrides import EVAL_OPTIONS, SCORING_OPTIONS, add_overrides, given_options, overridden
from trainers.options.unknown import parse_options
from trainers.report.contact_sheet import ContactSheet, contact_sheet
from trainers.report.pictures import overlay, save_index_png, save_picture, visible, with_legend
from trainers.run.checkpoints import load_checkpoint
from trainers.run.failures import is_out_of_memory

OVERRIDES = ("data.max_pixels", "data.show", *EVAL_OPTIONS)
"""Options of the training that may be others here."""


def find_images(paths: Iterable[Path], suffixes: tuple[str, ...], *, output: Path) -> list[Path]:
    """The images among ``paths``, and those with one of the suffixes in the folders among them or below these.

    What lies in an ``output`` folder below them is left aside: it may be from an earlier prediction. Other files that
    are left aside are told of on stderr.

    Raises:
        UserError: A folder holds no image.
        OSError: A folder cannot be read.
    """
    images: list[Path] = []
    for path in paths:
        if not path.is_dir():
            images.append(path)
            continue
        found = find_files(path, suffixes=suffixes, without=output)
        for line in one_line_each(found.remarks):
            print(f"warning: {line}", file=sys.stderr)
        if not found.pictures:
            raise UserError(f"The folder {path} holds no image ({', '.join(suffixes)}).")
        images += found.pictures
    return images


def output_names(images: Sequence[Path], folder: Path) -> list[str]:
    """A name for each image, so that NAME.png and NAME_overlay.png overwrite no other output and no image.

    Images of one name, from two folders say, become NAME, NAME-2, NAME-3, ...
    """
    taken = {_same_file(image) for image in images}
    seen: Counter[str] = Counter()
    names = []
    for image in images:
        name = image.stem
        while taken & (files := {_same_file(folder / f"{name}{end}.png") for end in ("", "_overlay")}):
            seen[image.stem] += 1
            name = f"{image.stem}-{seen[image.stem] + 1}"
        taken |= files
        names.append(name)
    return names


def _same_file(path: Path) -> str:
    return str(path.resolve()).casefold()  # some file systems take A.png and a.png for one


def predict(
    forward: Forward,
    images: Sequence[Path],
    folder: Path,
    class_names: Sequence[str],
    *,
    reader: ImageReader,
    bands: Sequence[int],
    sheet: ContactSheet | None = None,
) -> int:
    """Writes an index PNG, an overlay with a legend, and a card of the contact sheet for each image.

    Args:
        forward: Predicts.
        images: The files.
        folder: Where to.
        class_names: K names in the order of the class ids.
        reader: Reads the images.
        bands: Which of their bands are drawn, see `trainers.report.pictures.visible`.
        sheet: The contact sheet; ``None`` for none.

    Returns:
        How many images could not be read, or did not fit into the memory.
    """
    failures = 0
    named = list(zip(images, output_names(images, folder), strict=True))
    for path, name in progress(named, title="predict", unit="image"):
        try:
            with user_errors():
                image = reader(path)
            label = predict_image(forward, image, path)
        except UserError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failures += 1
            if sheet:
                sheet.add_failure(str(path), str(error))
            continue
        image = visible(image, bands)
        tinted = overlay(image, label)
        picture = folder / f"{name}_overlay.png"
        save_index_png(label, folder / f"{name}.png")
        save_picture(with_legend(tinted, label, class_names), picture)
        if sheet:
            sheet.add(str(path), image, tinted, label, link=picture.name)
        return_freed_memory()
    return failures


def predict_image(forward: Forward, image: Tensor, path: Path) -> Tensor:
    """Class ids (H,W) uint8 of an image (C,H,W) as it is stored; none but strips of it are on the device in windows.

    Raises:
        UserError: The memory is full.
    """
    try:
        strips = [strip.to("cpu", torch.uint8) for strip in forward.predict_strips(image[None])]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"The memory is full at the image {path} of {image.shape[2]}x{image.shape[1]} pixels; look at it in "
            "windows, with --eval.mode slide, or in smaller ones, by --eval.window and --eval.stride."
        ) from error
    return torch.cat(strips, 1)[0]


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options (default: the command line); exits with 1 where an image could not be read."""
    parser = ArgumentParser(
        usage="python -m trainers.predict --checkpoint FILE --output DIR [--OPTION VALUE ...] IMAGE|FOLDER ...",
        description="Writes NAME.png (class ids) and NAME_overlay.png (with a legend) for each image, and index.html, "
        "a contact sheet of them all.",
        formatter_class=CommandLineHelp,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE|FOLDER", help="Images, and folders of them, with all below."
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="A best.pt or last.pt.")
    parser.add_argument("--output", type=Path, required=True, help="Folder that the pictures are written into.")
    parser.add_argument("--contact_sheet", type=bool, default=True, help="Whether to write the contact sheet.")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, ... or auto.")
    parser.add_argument(
        "--names", type=str | None, help="What to look for, 'dotted red star,lawn,...', or a file of names."
    )
    add_overrides(parser, [*OVERRIDES, *SCORING_OPTIONS])
    options = parse_options(parser, sys.argv[1:] if arguments is None else arguments)

    refuse_several_processes("trainers.predict")
    checkpoint = load_checkpoint(options.checkpoint)
    class_names: Sequence[str] = checkpoint.class_names
    with user_errors():
        config = overridden(checkpoint.config, options, OVERRIDES)
        config = replace(config, train=replace(config.train, device=options.device))
        model = restore_model(checkpoint)
        if options.names is not None:
            vocabulary = rename(checkpoint, listed_names(options.names))
            class_names = vocabulary.class_names
            vocabulary.set_names(model, class_names)
        set_scoring(model, given_options(options, SCORING_OPTIONS))
        forward, reader = create_forward(model, config), create_reader(config.data)
        images = find_images(options.images, reader.suffixes, output=options.output)
        options.output.mkdir(parents=True, exist_ok=True)
    page = options.output / "index.html"
    with contact_sheet(page, class_names) if options.contact_sheet else nullcontext() as sheet:
        bands = config.data.shown_bands
        failures = predict(forward, images, options.output, class_names, reader=reader, bands=bands, sheet=sheet)
    print(f"{len(images) - failures} of {len(images)} images: {options.output}")
    if options.contact_sheet:
        print(f"Contact sheet: {page}")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
