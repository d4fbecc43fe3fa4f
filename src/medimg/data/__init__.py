"""Data: from files and tables to a dataset, and from a dataset to the pack that a job receives."""
