"""Is an installation fit to serve? Checks that look and change nothing, each with a remedy."""
