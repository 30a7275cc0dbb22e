"""From mask predictions to scores, logits and labels of every pixel."""

from mtaclip_plugin.inference.naming import class_probabilities
from mtaclip_plugin.inference.scores import scores_to_logits, semantic_labels, semantic_logits, semantic_scores
from mtaclip_plugin.inference.scoring import Classification, ScoreJoin, Scoring

__all__ = [
    "Classification",
    "ScoreJoin",
    "Scoring",
    "class_probabilities",
    "scores_to_logits",
    "semantic_labels",
    "semantic_logits",
    "semantic_scores",
]
