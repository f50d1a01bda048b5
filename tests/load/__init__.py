"""Many visitors at once on the real page, in a process of its own."""
