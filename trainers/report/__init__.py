"""What a person looks at: TensorBoard, overlays, pictures of text, and a page of predictions."""
