"""What fits share: one bounded store in memory, and folders on disk where they are asked for."""
