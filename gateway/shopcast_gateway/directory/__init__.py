"""Who is this, and what have they done anywhere: accounts, events, items and their vectors."""
