"""Whether files hold what they must: two checkpoints compared, and what was written proved."""
