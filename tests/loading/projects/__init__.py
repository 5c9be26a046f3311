"""Who loads what: projects whose files are folded, and the lines that load them then."""
