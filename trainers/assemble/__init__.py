"""From a configuration to the datasets, the model and its forward pass."""

from trainers.assemble.datasets import create_dataset, create_reader, create_set, create_sets, resolve_unseen
from trainers.assemble.evaluation import Evaluation, prepare, prepare_sets
from trainers.assemble.forward import create_forward, resolve_statistics
from trainers.assemble.models import bank_file, create_model, create_vocabulary, restore_model, set_scoring
from trainers.assemble.names import rename, set_vocabulary

__all__ = [
    "Evaluation",
    "bank_file",
    "create_dataset",
    "create_forward",
    "create_model",
    "create_reader",
    "create_set",
    "create_sets",
    "create_vocabulary",
    "prepare",
    "prepare_sets",
    "rename",
    "resolve_statistics",
    "resolve_unseen",
    "restore_model",
    "set_scoring",
    "set_vocabulary",
]
