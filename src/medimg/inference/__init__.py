"""Predicting: runtimes, the one Predictor, decisions, tables. Needs NumPy, Pillow, pydantic and LiteRT only."""
