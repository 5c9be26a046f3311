"""Files into models: each weight in the form that the model holds it in."""
