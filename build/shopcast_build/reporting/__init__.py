"""Reports people read: the page frame and its figures."""
