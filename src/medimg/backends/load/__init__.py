"""Load tests: clients in a process of their own, what they measured, and the picture of it."""
