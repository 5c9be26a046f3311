"""The layouts, one piece of software a file; importing a file registers its layouts."""
