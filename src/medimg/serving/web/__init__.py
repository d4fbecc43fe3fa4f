"""The web app: its routes and its page, and what stands between them and the network."""
