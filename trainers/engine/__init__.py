"""One step of training or evaluation: the forward pass, the loss, the optimizer and the engines around them."""
