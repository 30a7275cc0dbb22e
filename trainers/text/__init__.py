"""Programs that make text embeddings, and a text tower, where no hub can be reached."""
