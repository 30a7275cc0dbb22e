"""From mask predictions to scores, logits and labels of every pixel."""

from mtaclip_plugin.inference.naming import class_probabilities
from mtaclip_plugin.inference.scores import scores_to_logits, semantic_labels, semantic_logits, semantic_scores
from mtaclip_plugin.inference.scoring import Classification, Scoring

__all__ = [
    "Classification",
    "Scoring",
    "class_probabilities",
    "scores_to_logits",
    "semantic_labels",
    "semantic_logits",
    "semantic_scores",
]
