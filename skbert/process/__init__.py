"""What belongs to the process that a user works in: used, kept apart by threads and forks, and put back."""
