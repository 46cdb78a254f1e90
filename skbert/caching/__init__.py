"""What fits share: one bounded store in memory, and folders on disk if requested."""
