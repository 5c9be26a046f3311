"""The command line of wnconvert; the only package that knows typer and rich."""
