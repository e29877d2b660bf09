"""The `platform` command. Each command imports what it needs when it runs."""
