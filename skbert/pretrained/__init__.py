"""Checkpoints: where they are, how they are read, and the way to and from transformers' own classifiers."""
