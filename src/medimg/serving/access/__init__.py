"""Who may ask: keys, the sessions of people who signed in with one, and the gate that knows both."""
