"""From mask predictions to scores, logits and labels of every pixel."""

from mtaclip_plugin.inference.scores import (
    Classification,
    class_probabilities,
    scores_to_logits,
    semantic_labels,
    semantic_logits,
    semantic_scores,
)

__all__ = [
    "Classification",
    "class_probabilities",
    "scores_to_logits",
    "semantic_labels",
    "semantic_logits",
    "semantic_scores",
]
