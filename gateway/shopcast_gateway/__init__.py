"""The server: transport, core, directory and backend. Runs without torch."""
