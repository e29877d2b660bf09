"""Which accounts belong to one person, from personal attributes: links with a confidence."""
