"""The trainer: features, the exact loop, checkpoints, tracking; `python -m medimg.train` runs it."""
