"""From an encoder's feature pyramid and text embeddings to mask predictions."""
