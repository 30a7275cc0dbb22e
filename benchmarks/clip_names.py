"""By which of the names that CLIP's embeddings are at hand for the classes of data sets go, best first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SAME_THING: Final[Mapping[str, tuple[str, ...]]] = {
    # COCO-Stuff's "-other" is what none of its finer names says: sky without clouds, here
    "sky": ("sky-other",),
    "building": ("building-other",),
    "water": ("water-other",),
    "aeroplane": ("airplane",),
    "face": ("human face",),
    "hair": ("human hair",),
    "bra": ("brassiere",),
    "heels": ("high heels",),
    "leggings": ("legging",),
    "loafers": ("loafer",),
    "panties": ("underwear",),
    "pants": ("trousers",),
    "purse": ("handbag",),  # beside a wallet, as in American English
    "shoes": ("shoe",),
    "socks": ("sock",),
    "stockings": ("pantyhose",),
    "clogs": ("slippers",),
    "romper": ("jumpsuit",),
}
"""Other names for the same thing."""

ONLY_NEAR: Final[Mapping[str, tuple[str, ...]]] = {
    # CamVid
    "pole": ("parking meter",),  # what COCO-Stuff has of posts at the roadside; the farthest of these
    "sign symbol": ("stop sign",),  # one of many signs
    "pedestrian": ("person",),  # on foot in a street
    "bicyclist": ("bicycle",),  # without who rides it, as the person is the pedestrian's
    # MSRC
    "sign": ("stop sign",),
    "face": ("person",),
    "body": ("clothes",),  # what most of a body shows, as the person is the face's
    # Clothing Co-Parsing
    "background": ("building",),  # photos on streets
    "skin": ("human arm",),
    "accessories": ("armband",),
    "bag": ("shoulder bag",),
    "blouse": ("nightshirt",),
    "bodysuit": ("wet suit",),
    "flats": ("leather shoes",),
    "hoodie": ("jersey",),
    "intimate": ("swimsuit",),
    "jumper": ("parka",),
    "loafers": ("other shoes",),
    "pumps": ("footwear",),
    "t-shirt": ("polo shirt",),
    "top": ("tank top",),
    "vest": ("bulletproof vest",),
    "wedges": ("sandal",),
}
"""The nearest names of things that have none there."""
