"""A fitted estimator as one file without a pickle, and back."""
