"""The zoo: models of other packages, converted forth and back."""
