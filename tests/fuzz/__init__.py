"""The differential fuzzer: what forwards do, drawn at random, compared before and after a conversion."""
