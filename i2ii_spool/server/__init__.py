"""The HTTP server: it turns requests into job folders and job folders into answers, and keeps
nothing itself."""
