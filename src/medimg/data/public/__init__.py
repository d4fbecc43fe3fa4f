"""Public sets: what is known of them, and how they come onto this machine."""
