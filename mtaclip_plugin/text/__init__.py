"""From class names to text embeddings: learned prompts through a frozen tower, or a bank of ready embeddings."""

from mtaclip_plugin.text.bank import EmbeddingBank, load_embeddings
from mtaclip_plugin.text.build import TextSource, build_text
from mtaclip_plugin.text.class_names import NONE_NAME, check_class_names, fold_name, names_as_saved
from mtaclip_plugin.text.prompts import PromptLearner
from mtaclip_plugin.text.tower import TextTower

__all__ = [
    "NONE_NAME",
    "EmbeddingBank",
    "PromptLearner",
    "TextSource",
    "TextTower",
    "build_text",
    "check_class_names",
    "fold_name",
    "load_embeddings",
    "names_as_saved",
]
