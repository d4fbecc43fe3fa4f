"""The audit of a dataset: checks for the mistakes that make a score look better than it is."""
