"""Serving a model over HTTP; `python -m medimg.serving` runs the server."""
