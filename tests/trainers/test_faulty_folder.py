"""One page on a folder with every fault at once, which a user can work off."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.trainers.faulty_folder import FaultyFolder
from trainers import check_data

# Each kind of fault: how many files, the remedy that is told once, and the files that are named.
TO_BE_PUT_RIGHT = {
    "lists of classes that leave doubt": (1, "remove it; write one class name a line", "classes.txt"),
    "images of one name": (1, "rename one, or remove it", "same_name.jpg"),
    "files that cannot be read": (1, "replace or remove it", "broken.png"),
    "images of more than 8 bits a channel": (2, "convert it to 8-bit RGB", "deep.png deep_tiff.tif"),
    "images of more bands than red, green and blue": (1, "train with --data.channels", "four_bands.tif"),
    "masks of one channel that are grey as in colors.txt": (1, "save it as RGB if it is in colours", "grey.png"),
    "masks with ids that are no class": (1, "classes.txt names K=3 classes, 0 to 2; add names", "ids.png"),
    "masks that went through JPEG": (5, "export the mask anew as PNG", "jpeg0.png jpeg1.png jpeg2.png"),
    "images without a mask": (1, "add the mask, or remove the image", "maskless.png"),
    "masks with colours that are not in colors.txt": (1, "add them to colors.txt", "other_colours.png"),
    "masks of another size than their image": (1, "give both the same size", "small_mask.png"),
}
TO_BE_KNOWN = {
    "colours whose pixels are ignored": (1, "add to classes.txt what is a class", "colors.txt"),
    "files left aside, hidden or no pictures by their suffix": (
        4,
        "of pictures, save",
        ".hidden.png Thumbs.db notes.txt",
    ),
    "masks left aside, without an image of their own": (2, "add the images if", "spare1.png spare2.png"),
    "images turned by EXIF, perhaps without their masks": (2, "sizes of files do not tell", "headstand.jpg square.jpg"),
    "classes without a pixel to learn from": (1, "nothing can be learned of what is not there", "train"),
    "classes without a pixel to be scored on": (1, "add images of them, or take the scores for what they", "val"),
    "images that are in train and in val": (1, "leave each in one split", "bitmap"),
}


def sections(part: str) -> dict[str, tuple[int, str, str]]:
    """The kinds of a part of the page, with their counts, remedies and the names of the files."""
    found = {}
    for section in re.split(r"\n\n(?= ?\d+\. )", part)[1:]:
        head, *lines = section.strip().splitlines()
        kind, count = re.fullmatch(r"\d+\. (.*): (\d+)", head).groups()  # type: ignore[union-attr]
        body = "\n".join(lines)
        remedy = " ".join(body.split("    - ")[0].removeprefix("    Remedy: ").split())
        entries = [Path(entry.split()[0]).name for entry in body.split("    - ")[1:]]
        found[kind] = int(count), remedy, " ".join(entry for entry in entries if entry != "and")
    return found


def test_one_page_on_every_fault_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FaultyFolder(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        check_data.main(["--data.dataset", "folder", "--data.root", str(tmp_path)])
    assert stopped.value.code == 1
    page = capsys.readouterr().out
    head, _, rest = page.partition(f"Files are named by their paths below {tmp_path}.\n")
    first, _, second = rest.partition("\nTo be known:\n")
    for part, expected in ((first, TO_BE_PUT_RIGHT), (second, TO_BE_KNOWN)):
        found = sections("\n" + part)
        assert list(found) == list(expected)
        for kind, (count, remedy, files) in expected.items():
            assert found[kind][0] == count and found[kind][1].startswith(remedy) and found[kind][2] == files
    assert head.startswith(
        "train: 25 images, 14 of them cannot be used; 48 pixels high, 48 to 64 wide\nval: 2 images, 0"
    )
    # It is one page: no line too long for a terminal, no remedy twice, and no path as long as the one of the folder.
    assert len(page.splitlines()) < 110 and max(map(len, page.splitlines())) <= 110
    assert page.count("export the mask anew") == 1 and page.count("and 2 more; --all names them") == 1
    assert page.count(str(tmp_path)) == 1
    assert re.findall(r"^ ?(\d+)\. ", page, re.MULTILINE) == [str(number) for number in range(1, 19)]
