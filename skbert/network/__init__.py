"""The torch module: from a packed batch to logits."""
