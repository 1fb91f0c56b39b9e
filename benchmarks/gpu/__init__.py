"""Times on a CUDA device beside PyTorch: ceilings, convolutions, training steps, loss curves."""
