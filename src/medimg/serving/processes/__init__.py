"""The processes that decode, predict and explain, and the server's side of them."""
