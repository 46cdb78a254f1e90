"""What a user passes, checked and turned into packed batches; and logits turned into what a user reads."""
