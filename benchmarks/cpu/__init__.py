"""Training steps and inference on a CPU: ours against PyTorch eager and torch.compile."""
